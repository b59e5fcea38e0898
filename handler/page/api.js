// The gateway, asked. Everything that can go wrong comes back as a `Refused` in plain words.

export const CLASSIFY = "/v1/query-classify";

/** In this tab's memory alone: never stored, never part of an address. */
export const keys = { caller: "", operator: "" };

/**
 * @typedef {object} Answer
 * @property {string} label
 * @property {string} route
 * @property {string} task
 * @property {number} confidence
 * @property {string} [reason]
 * @property {boolean} [truncated]
 * @property {Record<string, number>} [tasks]
 * @property {number} [need]
 * @property {number} [margin]
 * @property {[number, number][]} [seen]
 *
 * @typedef {{error: {code: number, status: string, message: string}}} Failed
 * @typedef {{role: string, content: string}} Turn
 * @typedef {{text: string} | {messages: unknown[]}} Ask
 */

export class Refused extends Error {
	/**
	 * @param {number} code the HTTP status; 0 when nobody answered
	 * @param {string} words what happened, for people
	 * @param {number} [againS] seconds after which to try again; 0: trying again does not help
	 */
	constructor(code, words, againS = 0) {
		super(words);
		this.code = code;
		this.againS = againS;
	}
}

const STOPPED = "The gateway does not answer. It may be stopped or starting. This page goes on trying.";

/**
 * @param {number} code
 * @param {string} message the gateway's own
 * @param {number} retryS what `Retry-After` said
 * @param {boolean} keyed whether a key was sent
 */
export function refusal(code, message, retryS, keyed) {
	if (code === 401)
		return new Refused(
			code,
			keyed
				? "The gateway does not know this key. Type another under “Keys”, at the top."
				: "The gateway asks for a key. Type yours under “Keys”, at the top.",
		);
	if (code === 429)
		return new Refused(
			code,
			"The gateway has as many queries as it can take and turned this one away. This page asks again in a moment.",
			Math.max(retryS, 1),
		);
	if (code === 503)
		return new Refused(code, `The gateway answers no queries now: ${message}. This page goes on trying.`, 2);
	if (code === 504) return new Refused(code, "The gateway was too slow: the query's time ran out before its answer was ready.", 1);
	if (code === 413) return new Refused(code, `This is too long for the gateway: ${message}.`);
	if (code === 404) return new Refused(code, "The gateway does not serve this here.");
	if (code >= 500) return new Refused(code, `The gateway failed on this (${code}): ${message}.`);
	return new Refused(code, `The gateway refused this (${code}): ${message}.`);
}

/**
 * Ask a path; anything but 200 and 206 raises `Refused`.
 * @param {string} path
 * @param {RequestInit & {as?: "caller" | "operator"}} [options]
 */
export async function call(path, { as = "caller", ...init } = {}) {
	const headers = new Headers(init.headers);
	const key = keys[as];
	if (key) headers.set("authorization", `Bearer ${key}`);
	let response;
	try {
		response = await fetch(path, { ...init, headers, cache: "no-store", credentials: "omit", redirect: "error" });
	} catch (error) {
		if (init.signal?.aborted) throw error;
		throw new Refused(0, STOPPED, 2);
	}
	if (response.ok) return response;
	let message = response.statusText || "no reason given";
	try {
		const body = await response.json();
		message = String(body.error?.message ?? body.reason ?? message);
	} catch {
		// Something else than the gateway answered, a proxy perhaps: its status has to do.
	}
	throw refusal(response.status, message.replace(/\.$/, ""), Number(response.headers.get("retry-after")) || 0, key !== "");
}

/**
 * One query, explained.
 * @param {Ask} ask
 * @param {AbortSignal} signal
 */
export async function classify(ask, signal) {
	const began = performance.now();
	const response = await call(CLASSIFY, {
		method: "POST",
		headers: { "content-type": "application/json" },
		body: JSON.stringify({ ...ask, explain: true }),
		signal,
	});
	const answer = /** @type {Answer} */ (await response.json());
	return { answer, headers: response.headers, tookS: (performance.now() - began) / 1000 };
}

/**
 * Many queries in one request, a line each; answers come in the same order as they are there.
 * @param {Ask[]} asks
 * @param {(answer: Answer | Failed) => void} onAnswer
 * @param {AbortSignal} signal
 * @returns {Promise<number>} how many were answered before the stream ended
 */
export async function classifyMany(asks, onAnswer, signal) {
	const response = await call(CLASSIFY, {
		method: "POST",
		headers: { "content-type": "application/x-ndjson" },
		body: asks.map((ask) => JSON.stringify({ ...ask, explain: true }) + "\n").join(""),
		signal,
	});
	let answered = 0;
	try {
		for await (const line of lines(/** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (response.body))) {
			if (!line.trim() || answered === asks.length) continue;
			onAnswer(JSON.parse(line));
			answered += 1;
		}
	} catch (error) {
		if (signal.aborted) throw error;
		// The stream broke off: what was answered stands, the caller asks for the rest.
	}
	return answered;
}

/**
 * @param {ReadableStream<Uint8Array<ArrayBuffer>>} stream
 * @returns {AsyncGenerator<string>}
 */
export async function* lines(stream) {
	const reader = stream.pipeThrough(new TextDecoderStream("utf-8", { fatal: true })).getReader();
	let rest = "";
	for (;;) {
		const { value, done } = await reader.read();
		if (done) break;
		const found = (rest + value).split("\n");
		rest = /** @type {string} */ (found.pop());
		yield* found;
	}
	if (rest) yield rest;
}

/**
 * @typedef {{name: string, need_max: number}} Tier cheapest first
 * @typedef {object} Point of the measured curve
 * @property {number} threshold
 * @property {number} share_fast of all queries, sent fast
 * @property {number} wrong_fast of the queries that need the large model, sent fast
 * @property {number} easy_fast of the queries that the small model can answer, sent fast
 * @typedef {object} Facts what the page knows of the gateway
 * @property {boolean} known false where the deep report cannot be had
 * @property {string} version of the model
 * @property {string[]} tasks
 * @property {Record<string, number>} needs
 * @property {number} threshold
 * @property {Tier[]} tiers
 * @property {Point[]} curve empty where the model has none
 * @property {any} deep the report itself
 */
