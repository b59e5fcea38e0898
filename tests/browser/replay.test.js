// The page of `query-gateway replay`, opened from disk as its reader does: it asks nobody for anything, shows
// texts in their own column alone, and says what the terminal says.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";

import { launch, visit } from "./browser.js";
import { PYTHON, ROOT } from "./gateways.js";

// In every text, and nowhere else.
const MARK = "marigold";
const ASKS = [
	`Summarize in one sentence: the ${MARK} grows by the wall, and nobody waters it.`,
	`Prove that the ${MARK} number is irrational, step by step.`,
	`Translate to French: good morning, ${MARK}`,
	`Plan a garden of ${MARK}s for the next three years, with a budget.`,
	`<img src=http://127.0.0.1:9/x onerror=alert(1)><script>alert("${MARK}")</script> What is the capital of Australia?`,
];
const ROWS = 200;
const TIERS = ["nano", "mini", "small", "a-middle-one-of-seventy-billion-parameters", "large", "larger", "last"];

/** @type {import("playwright-core").Browser} */
let browser;
/** @type {string} */
let folder;

before(async () => {
	folder = await mkdtemp(path.join(os.tmpdir(), "replay-"));
	const rows = Array.from({ length: ROWS }, (_, n) => JSON.stringify({ text: ASKS[n % ASKS.length], time: `2026-11-${10 + (n % 7)}` }));
	await writeFile(path.join(folder, "log.jsonl"), [...rows, '{"text": ""}'].join("\n"));
	const policy = TIERS.map((name, n) => `[[tier]]\nname = "${name}"\nneed_max = ${((n + 1) / TIERS.length).toFixed(3)}\n`);
	await writeFile(path.join(folder, "seven.toml"), policy.join("\n"));
	browser = await launch();
});
after(async () => {
	await browser?.close();
	await rm(folder, { recursive: true, force: true });
});

/**
 * Replay the log: what the terminal shows, and where the page lies.
 * @param {string} name of the page
 * @param {string[]} [more] arguments
 * @param {Record<string, string>} [settings]
 */
async function replay(name, more = [], settings = {}) {
	const page = path.join(folder, name);
	const { PATH, HOME, LANG, TMPDIR } = process.env;
	const { stdout } = await promisify(execFile)(
		PYTHON,
		["-m", "handler", "replay", path.join(folder, "log.jsonl"), "--price-small", "200", "--price-large", "10000", "--out", page, ...more],
		{ cwd: ROOT, env: { PATH, HOME, LANG, TMPDIR, MODEL_PATH: path.join(ROOT, "models/quantized"), ...settings } },
	);
	return { told: stdout, page };
}

/**
 * Open a page from disk; every complaint of the browser, and every request but the page's own, is a failure.
 * @param {string} page
 * @param {(page: import("playwright-core").Page) => Promise<void>} act
 * @param {Parameters<typeof visit>[2]} [options]
 */
async function opened(page, act, options) {
	const url = pathToFileURL(page).href;
	const visitor = await visit(browser, "file://", options);
	let complaints;
	try {
		await visitor.page.goto(url);
		await act(visitor.page);
		await visitor.page.waitForTimeout(200); // what would be fetched late
	} finally {
		complaints = await visitor.close();
	}
	assert.deepEqual(complaints, []);
	assert.deepEqual(visitor.requests, [url]);
}

/** The cells of a page's tables that hold no texts, row by row. @param {import("playwright-core").Page} page */
const tables = (page) =>
	page.$$eval("table", (found) =>
		found.filter((table) => !table.querySelector("td.text")).map((table) => [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent))),
	);

test("a page opened from disk asks nobody for anything", async () => {
	const { page } = await replay("page.html");

	await opened(page, async (shown) => {
		assert.equal(await shown.locator("h1").innerText(), "Replay of log.jsonl");
		assert.equal(await shown.evaluate(() => document.scripts.length + document.images.length), 0);
	});
});

test("the texts stand in their own column and nowhere else", async () => {
	const { told, page } = await replay("texts.html");

	await opened(page, async (shown) => {
		const texts = await shown.locator("td.text").allInnerTexts();
		assert.ok(texts.length > 0 && texts.every((text) => text.includes(MARK)), texts.join("\n"));
		assert.ok(texts.some((text) => text.startsWith("<img src=")), "markup is shown as it was written");
		const elsewhere = await shown.evaluate(() => {
			const copy = /** @type {HTMLElement} */ (document.documentElement.cloneNode(true));
			for (const cell of copy.querySelectorAll("td.text")) cell.remove();
			return copy.outerHTML;
		});
		assert.ok(!elsewhere.includes(MARK));
	});
	assert.ok(!told.includes(MARK), "the terminal shows no text");
});

test("a page without texts holds none", async () => {
	const { page } = await replay("no-texts.html", ["--no-texts"]);

	await opened(page, async (shown) => assert.equal(await shown.locator("td.text").count(), 0));
	assert.ok(!(await readFile(page, "utf8")).includes(MARK));
});

test("the page says what the terminal says, in all, by task and by day", async () => {
	const { told, page } = await replay("totals.html");
	const all = /^([\d,]+) queries[^]*to fast: [\d,]+ \(([\d.]+%)\)[^]*saved: ([\d,.]+) \([^]*risked: ([\d,]+) queries[^]*for them: ([\d,.]+)$/m.exec(told);
	assert.ok(all, told);

	await opened(page, async (shown) => {
		const figures = await shown.locator(".figures b").allInnerTexts();
		assert.deepEqual(figures.slice(0, 5), all.slice(1));
		assert.equal(Number(figures[0]), ROWS);
		assert.equal(figures[5], "1"); // refused
		assert.match(told, /log\.jsonl:201: its text is empty/);

		const [tasks, days] = await tables(shown);
		assert.equal(days.length, 1 + 7);
		for (const [name, queries, ...cells] of [...tasks.slice(1), ...days.slice(1)]) {
			const line = told.split("\n").find((each) => each.startsWith(`${name} `));
			const [shares, money] = [cells.slice(0, 2), cells.slice(3)]; // the terminal leaves the cost out
			assert.deepEqual(line?.split(/ +/).slice(1), [queries, ...shares, ...money], name ?? "");
		}
		for (const [place, total] of [[4, all[3]], [5, all[5]]]) {
			const summed = tasks.slice(1).reduce((sum, row) => sum + Number(row[Number(place) + 1]?.replaceAll(",", "")), 0);
			assert.ok(Math.abs(summed - Number(String(total).replaceAll(",", ""))) < 0.01 * tasks.length, `${summed}, ${total}`);
		}
	});
});

for (const [width, dark] of /** @type {[number, boolean][]} */ ([[1280, false], [390, true]])) {
	test(`seven tiers are drawn within their pictures, ${width} pixels wide`, async () => {
		const prices = TIERS.slice(1, -1).flatMap((name, n) => ["--price", `${name}=${500 * (n + 1)}`]);
		const { page } = await replay("seven.html", prices, { POLICY_FILE: path.join(folder, "seven.toml") });

		await opened(
			page,
			async (shown) => {
				const outside = await shown.$$eval("svg", (pictures) =>
					pictures.flatMap((picture) => {
						const frame = picture.getBoundingClientRect();
						return [...picture.querySelectorAll("text")]
							.filter((text) => {
								const box = text.getBoundingClientRect();
								return box.left < frame.left - 2 || box.right > frame.right + 2 || box.bottom > frame.bottom + 2;
							})
							.map((text) => text.textContent);
					}),
				);
				assert.deepEqual(outside, []);
				assert.ok(await shown.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "nothing sticks out");
			},
			{ width, dark },
		);
	});
}
