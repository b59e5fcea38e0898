// Choose the line: what a threshold sends fast and what that costs, on the model's own curve and on one's own file.

import { classifyMany, Refused } from "./api.js";
import { chart } from "./chart.js";
import { copy, debounced, fill, h, percent, save, spoken, whole } from "./dom.js";
import { KINDS } from "./examples.js";
import { boundaryAt, facts, isFast, refresh, watch, words } from "./facts.js";
import { BadFile, Rows, ROWS_MAX } from "./rows.js";
import { table } from "./table.js";

/** @typedef {import("./api.js").Answer} Answer @typedef {import("./api.js").Ask} Ask */
/** @typedef {{at: number, ask: Ask}} Asked a row of the store and what it asks */

const LINES_A_REQUEST = 1000;
const TRIES = 6;
// Rows written to a download before the page has its turn.
const ROWS_A_TURN = 5000;
const BINS = 50;
// A row that was not answered because of the moment is asked again.
const PASSING = [429, 503, 504];

const ANSWERED = 1;
const FAILED = 2;

/** What is kept of a file's rows: texts, and columns of numbers, one each a row. */
class Store {
	constructor() {
		/** @type {string[]} */
		this.texts = [];
		/** @type {string[]} */
		this.ids = [];
		/** @type {string[]} */
		this.tasks = [];
		/** @type {Map<number, string>} why a row has no answer */
		this.whys = new Map();
		this.state = new Uint8Array(1024);
		this.need = new Float64Array(1024);
		this.confidence = new Float64Array(1024);
		this.task = new Uint16Array(1024);
		this.label = new Uint8Array(1024);
	}

	get count() {
		return this.texts.length;
	}

	/** @param {import("./rows.js").Row} row */
	add(row) {
		if (this.count === this.state.length) {
			const size = 2 * this.state.length;
			for (const column of ["state", "need", "confidence", "task", "label"]) {
				const old = /** @type {any} */ (this)[column];
				/** @type {any} */ (this)[column] = new old.constructor(size);
				/** @type {any} */ (this)[column].set(old);
			}
		}
		this.texts.push(row.text);
		this.ids.push(row.id);
		return this.count - 1;
	}

	/** @param {number} row @param {Answer} answer */
	answered(row, answer) {
		let task = this.tasks.indexOf(answer.task);
		if (task < 0) task = this.tasks.push(answer.task) - 1;
		this.state[row] = ANSWERED;
		// Without a need there is nothing to ask in the row: it goes to the last tier whatever the threshold.
		this.need[row] = answer.need ?? 1;
		this.confidence[row] = answer.confidence;
		this.task[row] = task;
		this.label[row] = Number(answer.label);
		this.whys.delete(row);
	}

	/** @param {number} row @param {string} why */
	failed(row, why) {
		this.state[row] = FAILED;
		this.whys.set(row, why);
	}
}

/** @param {HTMLElement} panel */
export function showLine(panel) {
	let store = new Store();
	let reading = new AbortController();
	let threshold = inForce();
	let touched = false;
	let sorted = "near";
	let rising = true;

	// The line

	const slider = h("input", {
		type: "range",
		id: "threshold",
		step: "0.01",
		oninput: () => {
			touched = true;
			moved(Number(slider.value));
		},
	});
	const shownThreshold = h("output", { for: "threshold", id: "threshold-shown" });
	const small = price("price-small", "Small model, per 1,000 queries", "0.20");
	const large = price("price-large", "Large model, per 1,000 queries", "10.00");
	const boxes = h("div", { class: "two even" });
	const curve = chart("", 220);
	const curveCard = h("div", { class: "card" });
	const policyText = h("pre", { id: "policy", tabindex: "0", "aria-label": "The policy file" });
	const copyPolicy = h("button", { type: "button", onclick: () => void copy(policyText.textContent ?? "", copyPolicy) }, "Copy");

	// The file

	const file = h("input", { type: "file", id: "file", accept: ".jsonl,.ndjson,.json,.csv,.tsv,.txt", class: "sr", onchange: () => file.files?.[0] && void take(file.files[0]) });
	const drop = h(
		"label",
		{ for: "file", class: "drop" },
		h("b", {}, "Drop a file of your own prompts here, or choose one"),
		h("span", { class: "hint" }, `JSON lines (text, prompt or messages) or CSV (a column text, prompt or query); up to ${whole(ROWS_MAX)} rows. Your browser reads it; the prompts go to this gateway alone.`),
	);
	const sample = h("button", { type: "button", onclick: () => void take(sampleFile()) }, "Take this page's examples");
	const stop = h("button", { type: "button", hidden: true, onclick: () => reading.abort() }, "Stop");
	const progress = h("progress", { max: "1", value: "0", "aria-label": "Rows asked" });
	const told = h("p", { class: "hint", id: "file-told", role: "status" });
	const trouble = h("div", { class: "notice bad", id: "file-trouble", role: "alert", hidden: true });
	const histogram = chart("How the rows' needs are spread", 170);
	const working = h("div", { class: "stack tight", hidden: true }, progress, told);

	const search = h("input", { type: "search", id: "search", "aria-label": "Filter by text", placeholder: "Filter by text", oninput: debounced(arrange, 150) });
	const ofRoute = h("select", { id: "of-route", "aria-label": "Filter by route", onchange: () => arrange() });
	const ofTask = h("select", { id: "of-task", "aria-label": "Filter by task", onchange: () => arrange() });
	const matching = h("span", { class: "hint", id: "matching", role: "status" });
	const rows = table(
		[
			{ name: "text", title: "Prompt", show: (row) => store.texts[row].slice(0, 300) },
			{
				name: "route",
				title: "Route",
				show: (row) => (store.state[row] === ANSWERED ? h("span", { class: `tag ${fast(row) ? "fast" : "slow"}` }, route(row)) : h("span", { class: "tag", title: store.whys.get(row) ?? "" }, store.state[row] === FAILED ? "failed" : "…")),
			},
			{ name: "task", title: "Task", show: (row) => (store.state[row] === ANSWERED ? spoken(store.tasks[store.task[row]]) : (store.whys.get(row) ?? "")) },
			{ name: "need", title: "Need", number: true, show: (row) => (store.state[row] === ANSWERED ? store.need[row].toFixed(3) : "") },
			{ name: "near", title: "To the line", number: true, show: (row) => (store.state[row] === ANSWERED ? Math.abs(store.need[row] - boundary()).toFixed(3) : "") },
		],
		"Rows of the file",
		(column) => {
			rising = sorted === column ? !rising : true;
			sorted = column;
			arrange();
			rows.top();
		},
	);
	const download = h("button", { type: "button", id: "download", onclick: () => void saveRows() }, "Download as CSV");
	const tableCard = h(
		"div",
		{ class: "card", hidden: true },
		h("div", { class: "row spread" }, h("h2", {}, "Rows, nearest to the line first"), download),
		h("div", { class: "row wrap filters" }, search, ofRoute, ofTask, matching),
		rows.element,
	);

	fill(
		panel,
		h(
			"div",
			{ class: "stack" },
			h(
				"div",
				{ class: "card" },
				h("div", { class: "row spread" }, h("h2", {}, h("label", { for: "threshold" }, "Threshold")), h("span", { class: "hint" }, "A fast answer less sure than this goes to slow.")),
				h("div", { class: "row slider" }, h("span", { class: "hint" }, "more fast"), slider, h("span", { class: "hint" }, "more safe"), shownThreshold),
				h("div", { class: "row wrap prices" }, small.element, large.element),
				boxes,
			),
			h("div", { class: "two even top-aligned" }, curveCard, h("div", { class: "card" }, h("h2", {}, "On your own prompts"), file, drop, h("div", { class: "row" }, sample, stop), trouble, working, histogram.element)),
			tableCard,
			h(
				"div",
				{ class: "card" },
				h("div", { class: "row spread" }, h("h2", {}, "Put it in force"), copyPolicy),
				policyText,
			),
		),
	);
	histogram.element.hidden = true;

	panel.addEventListener("dragover", (event) => {
		event.preventDefault();
		drop.classList.add("over");
	});
	panel.addEventListener("dragleave", () => drop.classList.remove("over"));
	panel.addEventListener("drop", (event) => {
		event.preventDefault();
		drop.classList.remove("over");
		const dropped = event.dataTransfer?.files[0];
		if (dropped) void take(dropped);
	});

	/** @param {string} id @param {string} title @param {string} value */
	function price(id, title, value) {
		const input = h("input", { type: "number", id, min: "0", step: "any", value, oninput: () => drawBoxes() });
		return { element: h("div", {}, h("label", { for: id }, title), input), get: () => Math.max(0, Number(input.value) || 0) };
	}

	function inForce() {
		return Number((1 - facts.tiers[0].need_max).toFixed(12));
	}

	const boundary = () => (atRest() ? facts.tiers[0].need_max : boundaryAt(threshold, facts.tiers));
	const atRest = () => Math.abs(threshold - inForce()) < 1e-9;

	/** @param {number} row */
	function fast(row) {
		// At the line in force the gateway itself has said it, to the last digit.
		if (atRest()) return store.label[row] === 0;
		return isFast(store.need[row], boundary());
	}

	/** @param {number} row */
	function route(row) {
		if (fast(row)) return facts.tiers[0].name;
		return (facts.tiers.slice(1).find((tier) => store.need[row] <= tier.need_max) ?? facts.tiers[facts.tiers.length - 1]).name;
	}

	// What is shown

	/** @param {number} to */
	function moved(to) {
		threshold = to;
		shownThreshold.textContent = to.toFixed(2);
		slider.min = String(Math.min(0.5, Math.floor(inForce() * 100) / 100));
		slider.max = String(Math.max(0.99, Math.ceil(inForce() * 100) / 100));
		slider.value = String(to);
		slider.setAttribute("aria-valuetext", to.toFixed(2));
		drawCurve();
		drawBoxes();
		drawHistogram();
		drawPolicy();
		arrangeSoon();
	}

	function drawPolicy() {
		const tiers = facts.tiers.map((tier, at) => (at === 0 ? { ...tier, need_max: Number(boundary().toFixed(4)) } : tier));
		policyText.textContent = [
			"# POLICY_FILE=policy.toml; leave CONFIDENCE_THRESHOLD unset beside it.",
			`# Or, without a file: CONFIDENCE_THRESHOLD=${threshold.toFixed(2)}`,
			...tiers.map((tier) => `\n[[tier]]\nname = ${JSON.stringify(tier.name)}\nneed_max = ${tier.need_max}`),
		].join("\n");
	}

	function drawCurve() {
		const points = facts.curve;
		if (!points.length) {
			fill(
				curveCard,
				h("h2", {}, "On prompts kept from training"),
				h("p", { class: "hint" }, facts.known ? "This model's manifest holds no measured curve. Your own file tells more anyway." : "The deep report, which holds the curve, may ask for an operator's key (“Keys”, at the top)."),
			);
			return;
		}
		if (!curve.element.isConnected)
			fill(
				curveCard,
				h("h2", {}, "On prompts kept from training"),
				curve.element,
				h("p", { class: "hint" }, `Measured by the model's builder on prompts kept from training, ${percent(slowShare())} of them slow. Yours are others: drop a file.`),
			);
		const at = curveAt(threshold);
		curve.show(
			{
				series: [
					{ name: "easy ones sent fast", kind: "fast", points: points.map((point) => [point.threshold, point.easy_fast]) },
					{ name: "all sent fast", kind: "cool", points: points.map((point) => [point.threshold, point.share_fast]) },
					{ name: "hard ones sent fast", kind: "bad", points: points.map((point) => [point.threshold, point.wrong_fast]) },
				],
				x: [points[0].threshold, points[points.length - 1].threshold],
				xTicks: [points[0].threshold, 0.7, points[points.length - 1].threshold],
				xWords: (value) => value.toFixed(2),
				yWords: (value) => percent(value),
				yMax: 0.1,
				at: threshold,
			},
			at ? `At threshold ${threshold.toFixed(2)}, ${percent(at.share_fast, 1)} of queries are sent fast, and ${percent(at.wrong_fast, 1)} of the hard ones, wrongly.` : "",
		);
	}

	/** The measured curve between its points. @param {number} at */
	function curveAt(at) {
		const points = facts.curve;
		const after = points.findIndex((point) => point.threshold >= at - 1e-9);
		if (after < 0) return points.at(-1) ?? null;
		const high = points[after];
		const low = points[Math.max(after - 1, 0)];
		const share = high.threshold === low.threshold ? 1 : Math.min(1, Math.max(0, (at - low.threshold) / (high.threshold - low.threshold)));
		const between = (/** @type {number} */ a, /** @type {number} */ b) => a + (b - a) * share;
		return { share_fast: between(low.share_fast, high.share_fast), wrong_fast: between(low.wrong_fast, high.wrong_fast), easy_fast: between(low.easy_fast, high.easy_fast) };
	}

	/** Of what the curve was measured on: the three shares of a point say it. */
	function slowShare() {
		const point = facts.curve.find(({ easy_fast, wrong_fast }) => easy_fast > wrong_fast);
		return point ? (point.easy_fast - point.share_fast) / (point.easy_fast - point.wrong_fast) : NaN;
	}

	function counts() {
		let answered = 0;
		let sentFast = 0;
		for (let row = 0; row < store.count; row += 1) {
			if (store.state[row] !== ANSWERED) continue;
			answered += 1;
			if (fast(row)) sentFast += 1;
		}
		return { answered, sentFast };
	}

	function drawBoxes() {
		const at = curveAt(threshold);
		const { answered, sentFast } = counts();
		fill(
			boxes,
			at &&
				box("Kept prompts", "measured", at.share_fast, [
					["Of easy, fast", percent(at.easy_fast, 1)],
					["Of hard, fast", percent(at.wrong_fast, 1)],
					["Wrong in 1,000", whole(Math.round(at.wrong_fast * slowShare() * 1000))],
				]),
			answered > 0 &&
				box("Your file", "own", sentFast / answered, [
					["Rows fast", whole(sentFast)],
					["Rows in all", whole(answered)],
				]),
		);
		boxes.hidden = !boxes.childElementCount;
	}

	/** @param {string} title @param {string} id @param {number} share @param {[string, string][]} more */
	function box(title, id, share, more) {
		const cost = share * small.get() + (1 - share) * large.get();
		const saved = large.get() - cost;
		return h(
			"div",
			{ id: `box-${id}` },
			h("h3", {}, title),
			h(
				"dl",
				{ class: "figures" },
				pair("Sent fast", percent(share, 1)),
				...more.map(([name, value]) => pair(name, value)),
				pair("Cost of 1,000", cost.toFixed(2)),
				pair("Saved", large.get() > 0 ? `${saved.toFixed(2)} (${percent(saved / large.get())})` : "–"),
			),
		);
	}

	function drawHistogram() {
		histogram.element.hidden = !store.count;
		if (!store.count) return;
		const bins = new Array(BINS).fill(0);
		let answered = 0;
		for (let row = 0; row < store.count; row += 1) {
			if (store.state[row] !== ANSWERED) continue;
			answered += 1;
			bins[Math.min(BINS - 1, Math.floor(store.need[row] * BINS))] += 1;
		}
		histogram.show(
			{
				series: [{ name: "", kind: "fast", points: bins.map((count, n) => [(n + 0.5) / BINS, count]) }],
				x: [0, 1],
				bars: true,
				at: boundary(),
				xTicks: [0, boundary(), 1],
				xWords: (value) => (value === 0 ? "need 0" : value === 1 ? "1" : `line ${value.toFixed(2)}`),
				yWords: (value) => whole(Math.round(value)),
			},
			`How the needs of ${whole(answered)} rows are spread between 0 and 1; the line is at ${boundary().toFixed(2)}.`,
		);
	}

	// The table

	const arrangeSoon = debounced(arrange, 120);

	function arrange() {
		if (!store.count) return;
		drawFilters();
		const text = search.value.trim().toLowerCase();
		const line = boundary();
		const chosen = new Uint32Array(store.count);
		let found = 0;
		for (let row = 0; row < store.count; row += 1) {
			if (ofRoute.value === "failed" ? store.state[row] !== FAILED : ofRoute.value && (store.state[row] !== ANSWERED || route(row) !== ofRoute.value)) continue;
			if (ofTask.value && (store.state[row] !== ANSWERED || store.tasks[store.task[row]] !== ofTask.value)) continue;
			if (text && !store.texts[row].toLowerCase().includes(text)) continue;
			chosen[found++] = row;
		}
		const order = chosen.subarray(0, found);
		const key = new Float64Array(store.count);
		const names = store.tasks.map((task, n) => /** @type {const} */ ([task, n])).sort((a, b) => (a[0] < b[0] ? -1 : 1));
		const rank = new Map(names.map(([, n], at) => [n, at]));
		for (const row of order) {
			const known = store.state[row] === ANSWERED;
			key[row] = !known
				? Infinity
				: sorted === "near"
					? Math.abs(store.need[row] - line)
					: sorted === "need"
						? store.need[row]
						: sorted === "task"
							? (rank.get(store.task[row]) ?? 0)
							: sorted === "route"
								? facts.tiers.findIndex((tier) => tier.name === route(row))
								: 0;
		}
		const sign = rising ? 1 : -1;
		if (sorted === "text") order.sort((a, b) => sign * (store.texts[a] < store.texts[b] ? -1 : store.texts[a] > store.texts[b] ? 1 : a - b));
		else order.sort((a, b) => (key[a] === key[b] ? a - b : key[a] === Infinity ? 1 : key[b] === Infinity ? -1 : sign * (key[a] - key[b])));
		rows.show(order, sorted, rising);
		matching.textContent = found === store.count ? `${whole(found)} rows` : `${whole(found)} of ${whole(store.count)} rows`;
	}

	function drawFilters() {
		options(ofRoute, ["", ...facts.tiers.map((tier) => tier.name), ...(store.whys.size ? ["failed"] : [])], "All routes");
		options(ofTask, ["", ...[...store.tasks].sort()], "All tasks");
	}

	/** @param {HTMLSelectElement} select @param {string[]} values @param {string} all */
	function options(select, values, all) {
		if ([...select.options].map((option) => option.value).join() === values.join()) return;
		const chosen = select.value;
		fill(select, ...values.map((value) => h("option", { value }, value ? spoken(value) : all)));
		if (values.includes(chosen)) select.value = chosen;
	}

	async function saveRows() {
		const parts = ["row,id,text,route,task,need,confidence,error\r\n"];
		const saved = store;
		for (let row = 0; row < saved.count; row += 1) {
			if (row % ROWS_A_TURN === ROWS_A_TURN - 1) await new Promise((resolve) => setTimeout(resolve));
			if (saved !== store) return; // another file has taken its place
			const known = store.state[row] === ANSWERED;
			parts.push(
				[row + 1, cell(store.ids[row]), cell(store.texts[row]), known ? cell(route(row)) : "", known ? cell(store.tasks[store.task[row]]) : "", known ? store.need[row] : "", known ? store.confidence[row] : "", cell(store.whys.get(row) ?? "")].join(",") + "\r\n",
			);
		}
		save(parts, "routes.csv", "text/csv");
	}

	// Reading and asking

	/** @param {File} given */
	async function take(given) {
		reading.abort();
		const mine = (reading = new AbortController());
		const mineStore = (store = new Store());
		const source = new Rows(given);
		const began = performance.now();
		file.value = "";
		trouble.hidden = true;
		working.hidden = false;
		stop.hidden = false;
		tableCard.hidden = true;
		progress.value = 0;
		told.textContent = "Reading …";
		let drawnAt = 0;
		let drawingMs = 0;

		/** @param {boolean} over */
		function tell(over) {
			// What is drawn takes a tenth of the time at most, however many rows there are.
			const now = performance.now();
			if (!over && now - drawnAt < Math.max(250, 10 * drawingMs)) return;
			const { answered } = counts();
			const failed = mineStore.whys.size;
			progress.value = over && !mine.signal.aborted ? 1 : Math.min(0.99, source.bytesRead / Math.max(given.size, 1));
			const rate = answered / ((now - began) / 1000);
			told.textContent = [
				`${whole(answered)} rows answered${over ? "" : `, ${whole(Math.round(rate))} a second`}`,
				failed && `${whole(failed)} failed`,
				source.brokenCount && source.firstBroken && `${whole(source.brokenCount)} ${source.brokenCount === 1 ? "line" : "lines"} could not be read (line ${source.firstBroken.line}: ${source.firstBroken.why})`,
				source.capped && `only the first ${whole(ROWS_MAX)} rows were taken`,
				over && mine.signal.aborted && "stopped",
			]
				.filter(Boolean)
				.join("; ") + ".";
			tableCard.hidden = !mineStore.count;
			drawBoxes();
			drawHistogram();
			arrange();
			drawnAt = performance.now();
			drawingMs = drawnAt - now;
		}

		try {
			/** @type {import("./rows.js").Row[]} */
			let batch = [];
			const send = async () => {
				const asks = batch.map((row) => ({ at: mineStore.add(row), ask: row.ask }));
				batch = [];
				await askAll(asks, mineStore, mine.signal, () => tell(false));
			};
			for await (const row of source.walk()) {
				if (mine.signal.aborted) break;
				batch.push(row);
				if (batch.length === LINES_A_REQUEST) await send();
			}
			if (batch.length && !mine.signal.aborted) await send();
		} catch (error) {
			if (!mine.signal.aborted) {
				trouble.hidden = false;
				trouble.textContent = error instanceof BadFile ? error.message : words(error);
			}
		}
		if (reading !== mine) return; // another file has taken its place
		stop.hidden = true;
		if (mineStore.count) tell(true);
		else {
			working.hidden = true;
			histogram.element.hidden = true;
			drawBoxes();
		}
	}

	/**
	 * Ask rows until each has an answer or a reason why not. Raises `Refused` when the gateway will not.
	 * @param {Asked[]} asks
	 * @param {Store} into
	 * @param {AbortSignal} signal
	 * @param {() => void} onProgress
	 */
	async function askAll(asks, into, signal, onProgress) {
		let left = asks;
		for (let tries = 0; left.length; ) {
			/** @type {Asked[]} */
			const passing = [];
			let n = 0;
			let done = 0;
			try {
				await classifyMany(
					left.map((each) => each.ask),
					(answer) => {
						const each = left[n++];
						if ("error" in answer) {
							into.failed(each.at, answer.error.message);
							if (PASSING.includes(answer.error.code)) passing.push(each);
							else done += 1;
						} else {
							into.answered(each.at, answer);
							done += 1;
						}
						if (n % 100 === 0) onProgress();
					},
					signal,
				);
			} catch (error) {
				if (signal.aborted || !(error instanceof Refused) || !error.againS || tries + 1 >= TRIES) throw error;
				told.textContent = error.message;
				await pause(error.againS * 1000, signal);
			}
			const rest = [...passing, ...left.slice(n)];
			tries = done ? 0 : tries + 1;
			if (rest.length && tries >= TRIES) {
				if (passing.length === rest.length) return; // each has its reason
				throw new Refused(0, "The gateway broke off its answers again and again. What was answered stands below.");
			}
			if (rest.length && !done) await pause(500, signal);
			left = rest;
			onProgress();
		}
	}

	watch(() => {
		if (!touched) moved(inForce());
		else moved(threshold);
	});
	moved(threshold);
	return {
		open: () => {
			if (!facts.known) void refresh().catch(() => undefined);
		},
	};
}

/** @param {string} name @param {string} value */
const pair = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));

function sampleFile() {
	const rows = KINDS.flatMap((kind) => [kind.plain, kind.hard]).map((text) => JSON.stringify({ text }) + "\n");
	return new File(rows, "examples.jsonl");
}

/**
 * A CSV cell. What a spreadsheet would take for a formula gets an apostrophe before it.
 * @param {string} value
 */
export function cell(value) {
	const harmless = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
	return /[",\r\n']/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
}

/** @param {number} ms @param {AbortSignal} signal */
function pause(ms, signal) {
	return new Promise((resolve, reject) => {
		const timer = setTimeout(resolve, ms);
		signal.addEventListener("abort", () => {
			clearTimeout(timer);
			reject(signal.reason);
		});
	});
}
