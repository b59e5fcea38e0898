"""The ten tasks that the shipped router tells apart, and the route of each.

The order is the order of the logits. A user's own data bring their own tasks;
then nothing here is used.
"""

FAST = ("classification", "summarization", "information_extraction", "closed_qa")
SLOW = ("creative_writing", "brainstorming", "open_qa", "general_qa", "coding", "reasoning")
TASKS = FAST + SLOW
POLICY = dict.fromkeys(FAST, "fast") | dict.fromkeys(SLOW, "slow")
