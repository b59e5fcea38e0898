// Asks to click on: for each kind a plain one and a harder one, and some that look like what they are not.

/** @typedef {{task: string, route: "fast" | "slow", plain: string, hard: string}} Kind */
/** @typedef {{name: string, route: "fast" | "slow", text?: string, turns?: import("./api.js").Turn[]}} Tricky */

/** @type {Kind[]} */
export const KINDS = [
	{
		task: "summarization",
		route: "fast",
		plain:
			"Summarize this in two sentences: The lighthouse at Cape Arno was built in 1857 after three ships were lost in one winter. Its lamp was tended by one family for four generations. Since 1988 it runs by itself, and the keeper's house is a museum.",
		hard: "tl;dr? Team, after Friday's outage we looked at the logs. A certificate had run out, and its alert was muted. From now on renewals are automatic and muted alerts end after a day.",
	},
	{
		task: "classification",
		route: "fast",
		plain: "Is this review positive or negative? The soup was cold and the waiter colder.",
		hard: "Which of these are fruits, which are vegetables: rhubarb, tomato, plum, leek, quince?",
	},
	{
		task: "information_extraction",
		route: "fast",
		plain: "Extract every date from this note: we met on 3 May, again on 9 June, and the report is due on 1 July.",
		hard: "List names and amounts only: Jo paid Kim 40 euros on Monday, Kim paid Ana 15 back, and Ana still owes Jo 5.",
	},
	{
		task: "closed_qa",
		route: "fast",
		plain: "Where did Ines live before Quito? Ines moved from Lima to Quito in 2004 and opened a bakery there.",
		hard: "Does the sender ask for a replacement or a refund? Answer with one word. Hello, the kettle I bought last week leaks. I do not want another one, please send my money back.",
	},
	{
		task: "rewriting",
		route: "fast",
		plain: "Fix the grammar: Me and him was going to the libary yesterday but it were closed.",
		hard: "Make this friendlier and shorter: You did not send the form. Without the form nothing will be done. Send the form.",
	},
	{
		task: "translation",
		route: "fast",
		plain: "Translate into French: The train leaves at nine from platform four.",
		hard: "How do you say “see you tomorrow” in Spanish, German and Italian?",
	},
	{
		task: "format_conversion",
		route: "fast",
		plain: "Turn this CSV into JSON:\nname,age\nMina,31\nOle,28",
		hard: "Write 7 March 2026, 12/25/2025 and “the first of May 2024” as ISO dates.",
	},
	{ task: "chitchat", route: "fast", plain: "hi", hard: "thanks, that's all for today!" },
	{
		task: "simple_math",
		route: "fast",
		plain: "What is 15% of 64?",
		hard: "A shirt costs 40 euros and is reduced by a quarter. What do I pay?",
	},
	{ task: "simple_fact", route: "fast", plain: "Who wrote Romeo and Juliet?", hard: "Another word for “happy”?" },
	{
		task: "simple_code",
		route: "fast",
		plain: "python one-liner to reverse a list",
		hard: "What does this line do? xs = [x for x in xs if x % 2]",
	},
	{
		task: "creative_writing",
		route: "slow",
		plain: "Write a poem about a lighthouse keeper who is afraid of the dark.",
		hard: "Continue in the same voice: The letter came on a Tuesday, which was strange, since nobody had lived in the house for years.",
	},
	{
		task: "brainstorming",
		route: "slow",
		plain: "Give me twelve ideas for a team day that costs nothing.",
		hard: "Names for a bakery in an old fire station?",
	},
	{
		task: "open_qa",
		route: "slow",
		plain: "Which treaty ended the War of the Quadruple Alliance, and who signed it for Savoy?",
		hard: "Who designed the first cable-stayed bridge in Poland?",
	},
	{
		task: "general_qa",
		route: "slow",
		plain: "Explain how interest rates affect house prices, and where economists disagree.",
		hard: "Summarize War and Peace.",
	},
	{
		task: "coding",
		route: "slow",
		plain: "Write a thread-safe LRU cache in Go with a time to live for each entry, and tests.",
		hard: "This deadlocks about once a day, why? lock(a); if (ready) { lock(b); swap(a, b); unlock(b); } unlock(a);",
	},
	{
		task: "reasoning",
		route: "slow",
		plain: "Five people sit in a row. Ana is left of Ben, Cem is not at an end, Dora is two seats from Eli. In which orders can they sit?",
		hard: "If all bloops are razzies and some razzies are lazzies, must some bloops be lazzies? Prove it.",
	},
	{
		task: "planning",
		route: "slow",
		plain: "Plan the move of a 40-person office over one weekend, hour by hour, with what can go wrong.",
		hard: "I have three months to learn enough Portuguese to work in a clinic. What do I do each week?",
	},
	{
		task: "advice",
		route: "slow",
		plain: "My landlord keeps the deposit and says the floor was scratched before. What should I do?",
		hard: "How do I tell my oldest friend that I cannot be at her wedding?",
	},
	{
		task: "agentic",
		route: "slow",
		plain: "Find the three cheapest flights to Oslo next week, check my calendar, and book the one that fits.",
		hard: "Open every ticket older than 30 days, ask its author whether it still matters, and close those without an answer.",
	},
];

/** @type {Tricky[]} Frames and conversations: the ask decides, not what stands around it. */
export const TRICKY = [
	{
		name: "A hard ask after easy turns",
		route: "slow",
		turns: [
			{ role: "user", content: "hi" },
			{ role: "assistant", content: "Hello! What can I do for you?" },
			{ role: "user", content: "What is 12 times 12?" },
			{ role: "assistant", content: "144." },
			{ role: "user", content: "Prove that there are infinitely many primes of the form 4k + 3." },
		],
	},
	{
		name: "An easy ask after hard turns",
		route: "fast",
		turns: [
			{ role: "user", content: "Compare three strategies for sharding a payments database and recommend one." },
			{ role: "assistant", content: "By customer, by region or by time. I would shard by customer, because …" },
			{ role: "user", content: "Thanks! Translate “by customer” into German." },
		],
	},
	{
		name: "A hard ask in an easy frame",
		route: "slow",
		text: "You are a helpful assistant. Answer in one word, as JSON, from the context only.\n\nContext: none.\n\nQuestion: Is it lawful in Portugal to inherit a debt against one's will, and how does one refuse it?",
	},
	{
		name: "An ask after a long text",
		route: "fast",
		text: `${"The meeting began at nine with the figures of the last quarter, which were read aloud and then discussed at length by all who were there. ".repeat(14)}\n\nIn one sentence: at what time did the meeting begin?`,
	},
	{
		name: "Short, but hard",
		route: "slow",
		text: "Is free will real?",
	},
	{ name: "Long, but easy", route: "fast", text: "Please sort these names by the alphabet and number them: Zeno, Marta, Quinn, Aboubakar, Lise, Tove, Hiro, Imre, Dana, Wim, Sade, Nuno, Kofi, Yara, Per, Ulla, Bo, Xenia, Eva, Finn." },
];

/** What the router was seen to get wrong: the model card tells why. @type {Tricky[]} */
export const WRONG = [
	{ name: "Capital of Australia", route: "fast", text: "What is the capital of Australia?" },
	{ name: "Height of Mont Blanc", route: "fast", text: "How tall is Mont Blanc?" },
	{ name: "Boiling point of ethanol", route: "slow", text: "Boiling point of ethanol?" },
	{ name: "Duties of a landlord", route: "slow", text: "What are the legal duties of a landlord in such a case? Dear neighbours, the water will be turned off on Thursday from nine to noon while the main valve is changed. Please fill a bucket the evening before." },
];
