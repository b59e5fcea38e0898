"""The twenty tasks that the shipped router tells apart, and the route of each.

The order is the order of the logits. A user's own data bring their own tasks;
then nothing here is used.
"""

FAST = (
    "classification", "summarization", "information_extraction", "closed_qa", "rewriting", "translation",
    "format_conversion", "chitchat", "simple_math", "simple_fact", "simple_code",
)  # fmt: skip
SLOW = (
    "creative_writing", "brainstorming", "open_qa", "general_qa", "coding", "reasoning", "planning", "advice",
    "agentic",
)  # fmt: skip
TASKS = FAST + SLOW
POLICY = dict.fromkeys(FAST, "fast") | dict.fromkeys(SLOW, "slow")

# What the wide sets call by names of their own.
ALIASES = {
    "math": "reasoning",
    "constrained_writing": "creative_writing",
    "title_generation": "rewriting",
    "question_generation": "rewriting",
}
