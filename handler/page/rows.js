// A file of prompts, read in the browser piece by piece: JSON lines, or CSV. Nothing is kept of it here.

import { whole } from "./dom.js";

export const ROWS_MAX = 100_000;
export const BYTES_MAX = 256 * 2 ** 20;
const FIELD_CHARS_MAX = 2 ** 20;
const TEXTS = ["text", "prompt", "query", "question", "instruction", "input", "content"];
const IDS = ["id", "custom_id", "request_id"];
// Lines that cannot be read from the very start mean that the file is something else.
const BROKEN_AT_START = 20;

/** @typedef {{id: string, text: string, ask: import("./api.js").Ask}} Row */
/** @typedef {{line: number, why: string}} Broken a line that could not be read, counted from 1 */

/** A file that cannot be used, and why, in a sentence for people. */
export class BadFile extends Error {}

/** A file, read as rows. `broken` and `bytesRead` grow while `rows` is walked. */
export class Rows {
	/** @param {File} file */
	constructor(file) {
		this.file = file;
		this.bytesRead = 0;
		this.brokenCount = 0;
		/** @type {Broken | null} the first one */
		this.firstBroken = null;
		this.capped = false;
		this.given = 0;
	}

	/**
	 * The rows, at most `ROWS_MAX`. Raises `BadFile`.
	 * @returns {AsyncGenerator<Row>}
	 */
	async *walk() {
		if (this.file.size === 0) throw new BadFile("This file is empty.");
		if (this.file.size > BYTES_MAX)
			throw new BadFile(
				`This file is ${size(this.file.size)}; the page reads at most ${size(BYTES_MAX)}. “query-gateway replay FILE” reads files of any size.`,
			);
		const head = new Uint8Array(await this.file.slice(0, 4096).arrayBuffer());
		if (head.includes(0) || looksPacked(head))
			throw new BadFile("This is a binary file. Drop a text file: JSON lines (one object a line) or CSV, in UTF-8.");
		const begin = new TextDecoder().decode(head).replace(/^\uFEFF/, "").trimStart();
		if (begin.startsWith("["))
			throw new BadFile("This is one JSON list. Write one object a line instead, for example with: jq -c '.[]' file.json");
		const csv = /\.(csv|tsv)$/i.test(this.file.name) || !begin.startsWith("{");
		if (/\.(jsonl|ndjson)$/i.test(this.file.name) && csv)
			throw new BadFile("The first line of this file is no JSON object, though its name says JSON lines.");
		try {
			for await (const row of csv ? this.#csv() : this.#jsonLines()) {
				if (this.given === ROWS_MAX) {
					this.capped = true;
					return;
				}
				this.given += 1;
				yield row;
			}
		} catch (error) {
			if (error instanceof TypeError) throw new BadFile("This file is not text in UTF-8. Save it as UTF-8 and drop it again.");
			if (error instanceof DOMException) throw new BadFile("This file can no longer be read. Was it moved or changed? Drop it again.");
			throw error;
		}
		if (!this.given) throw new BadFile(this.firstBroken ? this.#allBroken() : "There is no row in this file.");
	}

	/** @param {number} line @param {string} why @returns {null} */
	#skip(line, why) {
		this.brokenCount += 1;
		this.firstBroken ??= { line, why };
		if (!this.given && this.brokenCount >= BROKEN_AT_START) throw new BadFile(this.#allBroken());
		return null;
	}

	#allBroken() {
		const { line, why } = /** @type {Broken} */ (this.firstBroken);
		return `No line could be used so far. Line ${line}: ${why}.`;
	}

	/** @returns {AsyncGenerator<string>} */
	async *#chunks() {
		const counted = new TransformStream({
			transform: (/** @type {Uint8Array} */ chunk, controller) => {
				this.bytesRead += chunk.byteLength;
				controller.enqueue(chunk);
			},
		});
		const reader = this.file
			.stream()
			.pipeThrough(counted)
			.pipeThrough(new TextDecoderStream("utf-8", { fatal: true }))
			.getReader();
		try {
			for (;;) {
				const { value, done } = await reader.read();
				if (done) return;
				yield value;
			}
		} finally {
			void reader.cancel().catch(() => undefined);
		}
	}

	/** @returns {AsyncGenerator<Row>} */
	async *#jsonLines() {
		let rest = "";
		let number = 0;
		for await (const chunk of this.#chunks()) {
			const found = (rest + chunk).split("\n");
			rest = /** @type {string} */ (found.pop());
			for (const line of found) {
				const row = this.#jsonLine(line, (number += 1));
				if (row) yield row;
			}
			if (rest.length > 4 * FIELD_CHARS_MAX) throw new BadFile(`Line ${number + 1} is longer than four million characters.`);
		}
		const row = this.#jsonLine(rest, number + 1);
		if (row) yield row;
	}

	/** @param {string} line @param {number} number @returns {Row | null} */
	#jsonLine(line, number) {
		if (!line.trim()) return null;
		let given;
		try {
			given = JSON.parse(line);
		} catch {
			return this.#skip(number, "it is no JSON");
		}
		if (given === null || typeof given !== "object" || Array.isArray(given)) return this.#skip(number, "it is no JSON object");
		const id = String(IDS.map((name) => given[name]).find((value) => typeof value === "string" || typeof value === "number") ?? number);
		const body = given.body && typeof given.body === "object" ? given.body : given;
		if (Array.isArray(body.messages)) {
			const text = lastTurn(body.messages);
			return { id, text, ask: { messages: body.messages } };
		}
		const text = TEXTS.map((name) => body[name]).find((value) => typeof value === "string" && value.trim());
		if (text === undefined)
			return this.#skip(number, `it has ${Object.keys(body).slice(0, 6).join(", ") || "no member"}; one of ${TEXTS.join(", ")} or messages is needed`);
		return { id, text, ask: { text } };
	}

	/** @returns {AsyncGenerator<Row>} */
	async *#csv() {
		/** @type {{text: number, id: number} | null} */
		let columns = null;
		for await (const { cells, line } of cells_of(this.#chunks(), /\.tsv$/i.test(this.file.name))) {
			if (!columns) {
				const names = cells.map((cell) => cell.replace(/^\uFEFF/, "").trim().toLowerCase());
				const text = TEXTS.map((name) => names.indexOf(name)).find((at) => at >= 0) ?? (names.length === 1 ? 0 : -1);
				if (text < 0)
					throw new BadFile(
						`This CSV has the columns ${names.slice(0, 8).map((name) => name.slice(0, 24) || "(no name)").join(", ")}${names.length > 8 ? ", …" : ""}. One must be named ${TEXTS.slice(0, -1).join(", ")} or ${TEXTS.at(-1)}.`,
					);
				columns = { text, id: IDS.map((name) => names.indexOf(name)).find((at) => at >= 0) ?? -1 };
				if (names.length > 1 || TEXTS.includes(names[0])) continue;
			}
			const text = cells[columns.text];
			if (cells.length === 1 && !text.trim()) continue;
			if (text === undefined || !text.trim()) {
				this.#skip(line, text === undefined ? `it has only ${cells.length} cells` : "its text is empty");
				continue;
			}
			yield { id: cells[columns.id] ?? String(line), text, ask: { text } };
		}
	}
}

/**
 * The rows of a CSV (RFC 4180; comma, semicolon or tab, as the first line has it), with the line each begins in.
 * @param {AsyncGenerator<string>} chunks
 * @param {boolean} tabs
 */
async function* cells_of(chunks, tabs) {
	let separator = tabs ? "\t" : "";
	/** @type {string[]} */
	let cells = [];
	let cell = "";
	let quoted = false;
	let closing = false; // a quote within quotes: the end, or the first half of a pair
	let line = 1;
	let begun = 1;
	for await (const chunk of chunks) {
		if (!separator) {
			const first = chunk.slice(0, chunk.search(/[\r\n]|$/));
			separator = [",", ";", "\t"].map((sign) => ({ sign, count: first.split(sign).length })).sort((a, b) => b.count - a.count)[0].sign;
		}
		for (let at = 0; at < chunk.length; at += 1) {
			const sign = chunk[at];
			if (quoted && !closing) {
				if (sign === '"') closing = true;
				else {
					// Up to the next quote at once: texts are long.
					const end = chunk.indexOf('"', at);
					const piece = chunk.slice(at, end < 0 ? chunk.length : end);
					cell += piece;
					for (let n = piece.indexOf("\n"); n >= 0; n = piece.indexOf("\n", n + 1)) line += 1;
					if (cell.length > FIELD_CHARS_MAX) throw new BadFile(`The quote that opens in line ${begun} is not closed within a million characters.`);
					at += piece.length - 1;
				}
				continue;
			}
			if (closing) {
				closing = false;
				if (sign === '"') {
					cell += sign;
					continue;
				}
				quoted = false;
			}
			if (sign === '"' && !cell) quoted = true;
			else if (sign === separator) {
				cells.push(cell);
				cell = "";
			} else if (sign === "\n") {
				cells.push(cell);
				yield { cells, line: begun };
				cells = [];
				cell = "";
				line += 1;
				begun = line;
			} else if (sign !== "\r") cell += sign;
		}
	}
	if (quoted && !closing) throw new BadFile(`The quote that opens in line ${begun} is never closed.`);
	if (cell || cells.length) yield { cells: [...cells, cell], line: begun };
}

/** @param {unknown[]} messages */
function lastTurn(messages) {
	const turn = /** @type {any} */ (messages.findLast((each) => /** @type {any} */ (each)?.role === "user"));
	const content = turn?.content;
	if (typeof content === "string") return content;
	if (Array.isArray(content)) return content.map((part) => (typeof part?.text === "string" ? part.text : "")).join(" ");
	return "(a conversation without a user's turn)";
}

/** @param {Uint8Array} head */
function looksPacked(head) {
	const begins = (/** @type {number[]} */ ...bytes) => bytes.every((byte, at) => head[at] === byte);
	return begins(0x1f, 0x8b) || begins(0x50, 0x4b, 3, 4) || begins(0x28, 0xb5, 0x2f, 0xfd) || begins(0x25, 0x50, 0x44, 0x46);
}

/** @param {number} bytes */
export function size(bytes) {
	if (bytes >= 2 ** 30) return `${(bytes / 2 ** 30).toFixed(1)} GB`;
	if (bytes >= 2 ** 20) return `${(bytes / 2 ** 20).toFixed(0)} MB`;
	return `${whole(Math.ceil(bytes / 1024))} kB`;
}
