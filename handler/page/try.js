// Try: a prompt or a conversation, asked as one types, and all that the gateway says of its decision.

import { classify, Refused } from "./api.js";
import { debounced, fill, h, milliseconds, percent, spoken, whole } from "./dom.js";
import { KINDS, TRICKY, WRONG } from "./examples.js";
import { facts, watch, words } from "./facts.js";

/** @typedef {import("./api.js").Turn} Turn @typedef {import("./api.js").Answer} Answer */

const TYPING_MS = 180;
const MEANING = {
	fast: "A small model can answer this.",
	slow: "This needs a large model.",
};
const REASON = {
	low_confidence: "The router leans to fast, but not surely enough for the threshold: the safe side is slow.",
	not_text: "The last turn holds parts that are no text.",
	no_text: "There is nothing to ask in this conversation.",
};

/** @param {HTMLElement} panel */
export function showTry(panel) {
	/** @type {Turn[]} */
	let turns = [{ role: "user", content: "" }];
	let conversing = false;
	/** @type {"fast" | "slow" | null} what an example should get; null for the user's own text */
	let wanted = null;
	let asking = new AbortController();
	let again = 0;
	/** @type {Awaited<ReturnType<typeof classify>> | null} */
	let last = null;

	const text = h("textarea", {
		id: "prompt",
		rows: 7,
		spellcheck: "false",
		placeholder: "Type what a user would ask …",
		"aria-describedby": "prompt-hint",
		oninput: () => {
			wanted = null;
			soon();
		},
	});
	const turnList = h("ol", { class: "turns", "aria-label": "Turns of the conversation" });
	const promptBox = h("div", {}, h("label", { for: "prompt", class: "sr" }, "Prompt"), text);
	const talkBox = h(
		"div",
		{ hidden: true },
		turnList,
		h("div", { class: "row" }, h("button", { type: "button", onclick: addTurn }, "Add a turn")),
	);
	const asPrompt = mode("Prompt", false);
	const asTalk = mode("Conversation", true);
	const examples = h("div", { class: "chips", id: "example-chips" });
	const sets = h("div", { class: "segments", role: "group", "aria-label": "Which examples" });
	const outcome = h("div", { id: "outcome", class: "stack" });
	const spokenOutcome = h("p", { class: "sr", "aria-live": "polite", id: "spoken" });

	fill(
		panel,
		h(
			"div",
			{ class: "two" },
			h(
				"div",
				{ class: "stack" },
				h(
					"div",
					{ class: "card" },
					h("div", { class: "row spread" }, h("h2", {}, "Ask"), h("div", { class: "segments", role: "group", "aria-label": "What to ask" }, asPrompt, asTalk)),
					promptBox,
					talkBox,
					h("p", { class: "hint", id: "prompt-hint" }, "The gateway is asked as you type. It answers nothing itself: it says which model should."),
				),
				h("div", { class: "card" }, h("div", { class: "row spread" }, h("h2", {}, "Examples"), sets), examples),
			),
			h("div", { class: "stack" }, outcome, spokenOutcome),
		),
	);

	/** @param {string} name @param {boolean} talk */
	function mode(name, talk) {
		return h("button", { type: "button", "aria-pressed": String(!talk), onclick: () => converse(talk) }, name);
	}

	/** @param {boolean} talk */
	function converse(talk) {
		if (talk === conversing) return;
		if (talk) turns = [{ role: "user", content: text.value }];
		else text.value = turns.findLast((turn) => turn.role === "user")?.content ?? "";
		wanted = null;
		show(talk);
		void ask();
	}

	/** @param {boolean} talk */
	function show(talk) {
		conversing = talk;
		promptBox.hidden = talk;
		talkBox.hidden = !talk;
		asPrompt.setAttribute("aria-pressed", String(!talk));
		asTalk.setAttribute("aria-pressed", String(talk));
		if (talk) drawTurns();
	}

	function addTurn() {
		turns.push({ role: turns.at(-1)?.role === "user" ? "assistant" : "user", content: "" });
		drawTurns();
		/** @type {HTMLTextAreaElement | null} */ (turnList.querySelector("li:last-child textarea"))?.focus();
	}

	function drawTurns() {
		fill(
			turnList,
			...turns.map((turn, at) => {
				const role = h(
					"select",
					{
						"aria-label": `Who speaks in turn ${at + 1}`,
						onchange: () => {
							turn.role = role.value;
							wanted = null;
							drawTurns();
							void ask();
						},
					},
					...["system", "user", "assistant"].map((name) => h("option", { value: name, selected: name === turn.role }, name)),
				);
				const said = h("textarea", {
					rows: Math.min(4, 1 + Math.ceil(turn.content.length / 60)),
					spellcheck: "false",
					"aria-label": `Turn ${at + 1}, ${turn.role}`,
					oninput: () => {
						turn.content = said.value;
						wanted = null;
						soon();
					},
				});
				said.value = turn.content;
				return h(
					"li",
					{ class: `turn ${turn.role}` },
					h(
						"div",
						{ class: "row spread" },
						role,
						h(
							"button",
							{
								type: "button",
								class: "quiet",
								"aria-label": `Take turn ${at + 1} out`,
								disabled: turns.length === 1,
								onclick: () => {
									turns.splice(at, 1);
									drawTurns();
									void ask();
								},
							},
							"✕",
						),
					),
					said,
				);
			}),
		);
	}

	// Examples

	const SETS = {
		Plain: () => KINDS.map((kind) => ({ name: spoken(kind.task), route: kind.route, text: kind.plain })),
		Harder: () => KINDS.map((kind) => ({ name: spoken(kind.task), route: kind.route, text: kind.hard })),
		Tricky: () => TRICKY,
		"It errs here": () => WRONG,
	};

	/** @param {keyof typeof SETS} name */
	function showExamples(name) {
		for (const button of sets.children) button.setAttribute("aria-pressed", String(button.textContent === name));
		fill(
			examples,
			...["fast", "slow"].flatMap((route) => [
				h("h3", { class: route }, route === "fast" ? "Should be fast" : "Should be slow"),
				h(
					"div",
					{ class: "row wrap" },
					...SETS[name]()
						.filter((one) => one.route === route)
						.map((one) => h("button", { type: "button", class: `chip ${route}`, onclick: () => take(one) }, one.name)),
				),
			]),
			name === "It errs here" && h("p", { class: "hint" }, "Asks that the router was seen to get wrong; docs/model-card.md says what it is bad at."),
		);
	}
	for (const name of Object.keys(SETS))
		sets.append(h("button", { type: "button", onclick: () => showExamples(/** @type {keyof typeof SETS} */ (name)) }, name));

	/** @param {{route: "fast" | "slow", text?: string, turns?: Turn[]}} one */
	function take(one) {
		if (one.turns) turns = structuredClone(one.turns);
		else text.value = one.text ?? "";
		show(Boolean(one.turns));
		wanted = one.route;
		void ask();
	}

	// Asking

	const soon = debounced(() => void ask(), TYPING_MS);

	async function ask() {
		asking.abort();
		clearTimeout(again);
		const mine = (asking = new AbortController());
		const empty = conversing ? !turns.some((turn) => turn.content.trim()) : !text.value.trim();
		if (empty) {
			last = null;
			fill(outcome, h("div", { class: "card empty" }, h("p", {}, "Type something, or take an example, and the decision stands here.")));
			return;
		}
		try {
			last = await classify(conversing ? { messages: turns } : { text: text.value }, mine.signal);
			draw();
		} catch (error) {
			if (mine.signal.aborted) return;
			last = null;
			fill(outcome, h("div", { class: "notice bad", role: "alert", id: "trouble" }, words(error)));
			if (error instanceof Refused && error.againS) again = window.setTimeout(() => void ask(), error.againS * 1000);
		}
	}

	function draw() {
		if (!last) return;
		const { answer, headers, tookS } = last;
		const cheap = answer.label === "0";
		const kind = cheap ? "fast" : "slow";
		const meaning = MEANING[/** @type {"fast"} */ (answer.route)] ?? `Tier ${Number(answer.label) + 1} of ${facts.tiers.length}.`;
		const cache = headers.get("x-cache") ?? "";
		spokenOutcome.textContent = `${answer.route}, ${spoken(answer.task)}, confidence ${percent(answer.confidence)}`;
		fill(
			outcome,
			h(
				"div",
				{ class: `card verdict ${kind}` },
				h(
					"div",
					{ class: "row spread" },
					h("p", { class: "route" }, h("strong", { id: "route", "data-label": answer.label }, answer.route), h("span", {}, meaning)),
					h("span", { class: "pill", title: "Which cache level answered" }, cache === "miss" ? "model run" : `cache ${cache.toUpperCase()}`),
				),
				h(
					"dl",
					{ class: "figures" },
					figure("Task", spoken(answer.task), "task"),
					figure("Confidence", percent(answer.confidence, 1), "confidence"),
					figure("In the gateway", milliseconds(Number(headers.get("x-router-latency")) / 1000), "latency"),
					figure("Here and back", milliseconds(tookS), "took"),
				),
				answer.reason && h("p", { class: "hint" }, REASON[/** @type {"no_text"} */ (answer.reason)] ?? `Reason: ${spoken(answer.reason)}.`),
				...stages(headers),
				wanted &&
					h(
						"p",
						{ class: `expected ${kind === wanted ? "right" : "wrong"}`, id: "expected" },
						kind === wanted
							? `✓ As it should be: ${wanted}.`
							: `✗ This should be ${wanted}: the router errs here. The model card tells what it is bad at.`,
					),
			),
			answer.need !== undefined && needCard(answer),
			answer.tasks && taskCard(answer.tasks),
			seenCard(answer),
		);
	}

	/** @param {Answer} answer */
	function needCard(answer) {
		const need = /** @type {number} */ (answer.need);
		const scale = h("div", { class: "scale", role: "img" });
		let from = 0;
		for (const [at, tier] of facts.tiers.entries()) {
			const zone = h("div", { class: `zone tier${at === 0 ? " fast" : at === facts.tiers.length - 1 ? " slow" : ""}` }, h("span", {}, tier.name));
			zone.style.setProperty("--from", String(from));
			zone.style.setProperty("--to", String(tier.need_max));
			from = tier.need_max;
			scale.append(zone);
		}
		const marker = h("div", { class: "marker" }, h("span", {}, need.toFixed(2)));
		marker.style.setProperty("--at", String(need));
		if (need > 0.85) marker.classList.add("left");
		scale.append(marker);
		const bounds = facts.tiers.slice(0, -1).map((tier) => tier.need_max);
		scale.setAttribute("aria-label", `Need ${need.toFixed(2)} on a scale from 0 to 1; boundary at ${bounds.map((b) => b.toFixed(2)).join(", ")}`);
		return h(
			"div",
			{ class: "card" },
			h("h2", {}, "How much large model it needs"),
			scale,
			h(
				"p",
				{ class: "hint" },
				"Need ",
				h("b", { id: "need" }, need.toFixed(3)),
				", boundary ",
				h("b", { id: "boundary" }, bounds.map((bound) => bound.toFixed(2)).join(", ")),
				", margin ",
				h("b", { id: "margin" }, (answer.margin ?? 0).toFixed(3)),
				". Need adds up each task's probability times what the policy says the task needs.",
			),
		);
	}

	/** @param {Record<string, number>} tasks */
	function taskCard(tasks) {
		const column = (/** @type {boolean} */ fast) => {
			const mine = Object.entries(tasks)
				.filter(([task]) => (facts.needs[task] ?? 1) < 0.5 === fast)
				.sort((a, b) => b[1] - a[1]);
			const sum = mine.reduce((total, [, share]) => total + share, 0);
			return h(
				"div",
				{ class: fast ? "fast" : "slow" },
				h("h3", {}, fast ? "Small model is enough" : "Large model needed", h("b", {}, percent(sum, 1))),
				h(
					"ul",
					{ class: "bars" },
					...mine.map(([task, share]) => {
						const bar = h("span", { class: "bar" });
						bar.style.setProperty("--share", String(share));
						return h("li", { "data-task": task }, h("span", { class: "what" }, spoken(task)), h("span", { class: "track" }, bar), h("span", { class: "number" }, percent(share, 1)));
					}),
				),
			);
		};
		return h("div", { class: "card" }, h("h2", {}, "What kind of task it sees"), h("div", { class: "two even", id: "tasks" }, column(true), column(false)));
	}

	/** @param {Headers} headers */
	function stages(headers) {
		const parts = [...(headers.get("server-timing") ?? "").matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, ms]) => ({ name, ms: Number(ms) }));
		const total = Number(headers.get("x-router-latency"));
		const other = total - parts.reduce((sum, part) => sum + part.ms, 0);
		if (other > 0) parts.push({ name: "other", ms: other });
		const strip = h("div", { class: "strip", "aria-hidden": "true" });
		for (const { name, ms } of parts) {
			const part = h("span", { class: `stage ${name}` });
			part.style.setProperty("--share", String(ms / total));
			strip.append(part);
		}
		return [
			strip,
			h(
				"ul",
				{ class: "legend", id: "stages", "aria-label": "Where the time went" },
				...parts.map((part) => h("li", {}, h("span", { class: `key ${part.name}` }), `${part.name} `, h("b", {}, milliseconds(part.ms / 1000)))),
			),
		];
	}

	/** @param {Answer} answer */
	function seenCard(answer) {
		if (!answer.seen || !answer.truncated) return null;
		const turned = conversing ? inTurns(turns, answer.seen) : [{ role: "", pieces: inText(text.value, answer.seen) }];
		const shown = h("div", { class: "seen", id: "seen", tabindex: "0", role: "group", "aria-label": "What was asked, with what was read and what was cut" });
		let read = 0;
		let all = 0;
		for (const { role, pieces } of turned) {
			if (role) shown.append(h("b", {}, role));
			shown.append(h("p", {}, ...pieces.map((piece) => h(piece.read ? "ins" : "del", {}, piece.text))));
			for (const piece of pieces) {
				const length = Array.from(piece.text).length;
				all += length;
				if (piece.read) read += length;
			}
		}
		return h(
			"div",
			{ class: "card" },
			h("h2", {}, "What it read"),
			h("p", { class: "hint" }, `${whole(read)} of ${whole(all)} characters; what is grey was cut.`),
			shown,
		);
	}

	watch(draw);
	showExamples("Plain");
	take(SETS.Plain()[0]);
	let opened = false;
	return {
		open: () => {
			if (opened && !last) void ask();
			opened = true;
		},
	};
}

/** @param {string} name @param {string} value @param {string} id */
function figure(name, value, id) {
	return h("div", {}, h("dt", {}, name), h("dd", { id }, value));
}

/** @typedef {{text: string, read: boolean}} Piece of a text that was read, or cut */

/**
 * A text in pieces.
 * @param {string} text @param {[number, number][]} seen what was read of it, in code points
 */
function inText(text, seen) {
	const points = Array.from(text);
	/** @type {Piece[]} */
	const pieces = [];
	let at = 0;
	for (const [start, end] of [...seen, [points.length, points.length]]) {
		if (start > at) pieces.push({ text: points.slice(at, start).join(""), read: false });
		if (end > start) pieces.push({ text: points.slice(start, end).join(""), read: true });
		at = end;
	}
	return pieces;
}

/**
 * Each turn in pieces. Of a conversation `seen` counts in the JSON list of roles and contents that it travels as, where a
 * line break, say, is two signs.
 * @param {Turn[]} turns @param {[number, number][]} seen
 */
function inTurns(turns, seen) {
	let at = 1;
	let range = 0;
	return turns.map(({ role, content }) => {
		at += Array.from(`{"role":${JSON.stringify(role)},"content":"`).length;
		/** @type {Piece[]} */
		const pieces = [];
		for (const sign of content) {
			while (range < seen.length && at >= seen[range][1]) range += 1;
			const read = range < seen.length && at >= seen[range][0];
			const last = pieces.at(-1);
			if (last?.read === read) last.text += sign;
			else pieces.push({ text: sign, read });
			at += Array.from(JSON.stringify(sign)).length - 2;
		}
		at += '"},'.length;
		return { role, pieces };
	});
}
