// What the page knows of the gateway: model, policy, threshold and the measured curve, from `/health/deep`.

import { call, Refused } from "./api.js";

/** @typedef {import("./api.js").Facts} Facts */

// The default policy, for a gateway that keeps its deep report to operators (OPS_KEYS).
const FAST =
	"classification summarization information_extraction closed_qa rewriting translation format_conversion chitchat simple_math simple_fact simple_code".split(" ");
const SLOW = "creative_writing brainstorming open_qa general_qa coding reasoning planning advice agentic".split(" ");

// The number before a half: a need of a half is slow.
const HALF = 0.5 - Number.EPSILON / 4;

/** @type {Facts} */
export let facts = unknown();

/** @type {Set<() => void>} */
const watchers = new Set();

/** @param {() => void} act called when the facts have changed */
export const watch = (act) => watchers.add(act);

/** @returns {Facts} */
function unknown() {
	return {
		known: false,
		version: "",
		tasks: [...FAST, ...SLOW],
		needs: Object.fromEntries([...FAST.map((task) => [task, 0]), ...SLOW.map((task) => [task, 1])]),
		threshold: 0.7,
		tiers: tiersAt(0.7),
		curve: [],
		deep: null,
	};
}

/**
 * Two tiers as a threshold parts them.
 * @param {number} threshold
 */
export function tiersAt(threshold) {
	return [
		{ name: "fast", need_max: Math.min(HALF, 1 - threshold) },
		{ name: "slow", need_max: 1 },
	];
}

/** Ask the deep report. Raises `Refused`; the facts then stay as they were. */
export async function refresh() {
	const response = await call("/health/deep", { as: "operator" });
	const deep = await response.json();
	const seen = JSON.stringify([deep.checks?.model, deep.checks?.policy, deep.policy]);
	if (seen !== last) {
		last = seen;
		facts = read(deep);
		for (const act of watchers) act();
	} else facts.deep = deep;
	return facts;
}
let last = "";

/**
 * @param {any} deep
 * @returns {Facts}
 */
export function read(deep) {
	const base = unknown();
	const model = deep.checks?.model ?? {};
	const policy = deep.checks?.policy ?? deep.policy ?? {};
	const threshold = Number(policy.threshold ?? base.threshold);
	const tasks = model.tasks?.length ? model.tasks : base.tasks;
	const needs = { ...base.needs, ...policy.need };
	return {
		known: true,
		version: model.version ?? "",
		tasks,
		needs: Object.fromEntries(tasks.map((/** @type {string} */ task) => [task, needs[task] ?? 1])),
		threshold,
		tiers: policy.tiers?.length ? policy.tiers : tiersAt(threshold),
		curve: model.curve ?? [],
		deep,
	};
}

/**
 * Where a threshold puts the end of the cheapest tier: the gateway's own rule. No threshold moves it
 * over a half or over where the policy has put it, nor past the next tier's.
 * @param {number} threshold
 * @param {Facts["tiers"]} tiers
 */
export function boundaryAt(threshold, tiers) {
	const most = Math.max(HALF, tiers[0].need_max);
	return Math.min(1 - threshold, most, tiers.length > 1 ? tiers[1].need_max : 1);
}

/**
 * Whether a need takes the cheapest tier that ends at `boundary`, for needs as they are written in
 * answers and boundaries whose last digit is lost on the way from a threshold.
 * @param {number} need
 * @param {number} boundary
 */
export const isFast = (need, boundary) => need <= boundary + 1e-9 && !(need >= 0.5 && boundary < 0.5);

/** @param {unknown} error */
export const words = (error) =>
	error instanceof Refused ? error.message : "Something on this page went wrong. Reload it; if it happens again, tell its makers.";
