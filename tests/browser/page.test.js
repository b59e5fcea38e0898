// The page as a visitor meets it: a real gateway, a real browser, and what stands on the screen held
// against what the API answers. `visit` makes every complaint of the browser a failure.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";

import { eventually, launch, visit } from "./browser.js";
import { freePort, Gateway } from "./gateways.js";

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const ROWS = 10_000;
const DIFFERENT = 400;
const MANY = 100_000;
const FROZEN_MS = 3000;
const LONG = "The keeper wrote down the wind, the sea and every passing ship. ".repeat(120) + "Summarize the text above in one sentence.";

/** @type {import("playwright-core").Browser} */
let browser;
/** @type {Gateway} */
let gateway;
/** @type {string} */
let folder;

before(async () => {
	folder = await mkdtemp(path.join(os.tmpdir(), "page-"));
	[browser, gateway] = await Promise.all([launch(), Gateway.start()]);
});
after(async () => {
	await browser?.close();
	await gateway?.stop();
	await rm(folder, { recursive: true, force: true });
});

/**
 * Visit a gateway, and fail on every complaint that the test does not expect.
 * @param {(visitor: Awaited<ReturnType<typeof visit>>) => Promise<void>} act
 * @param {{at?: string, of?: Gateway} & Parameters<typeof visit>[2]} [options]
 */
async function onPage(act, { at = "/", of = gateway, ...options } = {}) {
	const visitor = await visit(browser, of.url, options);
	let complaints;
	try {
		await visitor.page.goto(of.url + at);
		await act(visitor);
	} finally {
		complaints = await visitor.close();
	}
	assert.deepEqual(complaints, []);
}

/** @param {import("playwright-core").Page} page @param {string} selector */
const words = async (page, selector) => (await page.locator(selector).innerText()).trim();

/** Type a prompt and wait for its decision. @param {import("playwright-core").Page} page @param {string} text */
async function type(page, text) {
	const answered = page.waitForResponse((response) => response.url().endsWith("/v1/query-classify") && (response.request().postDataJSON()?.text ?? "") === text);
	await page.fill("#prompt", text);
	await answered;
	await page.waitForFunction((typed) => document.querySelector("#spoken")?.textContent && /** @type {any} */ (document.querySelector("#prompt")).value === typed, text);
	await page.waitForTimeout(30); // the answer is drawn in the same turn as it is read
}

/** @param {import("playwright-core").Page} page @param {string} name @param {string} content */
async function drop(page, name, content) {
	const transfer = await page.evaluateHandle(
		([name, content]) => {
			const transfer = new DataTransfer();
			transfer.items.add(new File([content], name));
			return transfer;
		},
		[name, content],
	);
	await page.dispatchEvent(".drop", "dragover", { dataTransfer: transfer });
	await page.dispatchEvent(".drop", "drop", { dataTransfer: transfer });
}

/** @param {import("playwright-core").Page} page */
const asked = (page) => page.waitForFunction(() => /** @type {HTMLProgressElement} */ (document.querySelector("progress")).value === 1, null, { timeout: 120_000 });

/** @param {string} text */
const number = (text) => Number(text.replaceAll(",", ""));

function manyTexts() {
	const asks = ["Summarize this note:", "Write a poem about", "What is the capital of", "Extract the names from", "Plan a week in", "Translate into French:", "Explain why", "Fix the grammar:"];
	const things = ["harbour", "lighthouse", "budget", "kettle", "invoice", "orchard", "museum", "granite", "letter", "engine"];
	return Array.from({ length: ROWS }, (_, n) => `${asks[n % asks.length]} ${things[n % things.length]} ${things[(n >> 3) % things.length]} ${n % DIFFERENT}`);
}

describe("Try", () => {
	test("a visitor sees a decision before touching anything", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector("#route");

			assert.equal(await words(page, "#route"), "Fast");
			assert.match(await words(page, "#state"), /^Ready · model \w+/);
		}));

	for (const text of ["Write a poem about the sea", "Fix the grammar: he go home", "hi"])
		test(`what is shown for “${text}” is what the API answers`, () =>
			onPage(async ({ page }) => {
				await page.waitForSelector("#route");
				const answer = await gateway.ask({ text });

				await type(page, text);

				assert.equal((await words(page, "#route")).toLowerCase(), answer.route);
				assert.equal(await page.getAttribute("#route", "data-label"), answer.label);
				assert.equal(await words(page, "#task"), answer.task.replaceAll("_", " "));
				assert.equal(await words(page, "#confidence"), `${(answer.confidence * 100).toFixed(1)}%`);
				assert.equal(await words(page, "#need"), answer.need.toFixed(3));
				assert.equal(await words(page, "#margin"), answer.margin.toFixed(3));
				const bars = await page.locator("#tasks li").evaluateAll((items) => items.map((item) => [item.getAttribute("data-task"), item.querySelector(".number")?.textContent]));
				assert.deepEqual(Object.fromEntries(bars), Object.fromEntries(Object.entries(answer.tasks).map(([task, share]) => [task, `${(share * 100).toFixed(1)}%`])));
			}));

	test("the boundary that is shown is as far from the need as the margin says", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector("#need");

			const [need, boundary, margin] = await Promise.all(["#need", "#boundary", "#margin"].map(async (id) => Number(await words(page, id))));

			assert.ok(Math.abs(Math.abs(need - boundary) - margin) < 0.006, `${need} ${boundary} ${margin}`);
		}));

	test("a repeated query says that a cache answered it", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector("#route");
			await gateway.ask({ text: "Sort these: pear, fig, plum" });

			await type(page, "Sort these: pear, fig, plum");

			assert.equal(await words(page, ".verdict .pill"), "cache L1");
			assert.match(await words(page, "#stages"), /l1 [\d.]+ ms/);
		}));

	test("typing without a pause asks once", () =>
		onPage(async ({ page, requests }) => {
			await page.waitForSelector("#route");
			const before = requests.length;

			await page.locator("#prompt").pressSequentially(" and then tell", { delay: 15 });
			await eventually(() => requests.length > before, "it is asked");
			await page.waitForTimeout(400);

			assert.ok(requests.slice(before).filter((url) => url.endsWith("/v1/query-classify")).length <= 3);
		}));

	test("a conversation is shown as the API decides it", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector("#route");
			const messages = [
				{ role: "user", content: "hi" },
				{ role: "assistant", content: "Hello!" },
				{ role: "user", content: "Prove that there are infinitely many primes." },
			];
			const answer = await gateway.ask({ messages });

			await page.click("text=Conversation");
			await page.fill('[aria-label="Turn 1, user"]', messages[0].content);
			await page.click("text=Add a turn");
			await page.fill('[aria-label="Turn 2, assistant"]', messages[1].content);
			await page.click("text=Add a turn");
			const answered = page.waitForResponse((response) => response.request().postDataJSON()?.messages?.[2]?.content === messages[2].content);
			await page.fill('[aria-label="Turn 3, user"]', messages[2].content);
			await answered;

			await eventually(async () => (await words(page, "#need")) === answer.need.toFixed(3), "the need is the API's");
			assert.equal((await words(page, "#route")).toLowerCase(), answer.route);
		}));

	test("what the model did not read of a long text is grey", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector("#route");
			const { seen } = await gateway.ask({ text: LONG });
			const points = Array.from(LONG);

			await type(page, LONG);

			const read = await page.locator("#seen ins").allInnerTexts();
			const cut = await page.locator("#seen del").evaluateAll((all) => all.reduce((sum, one) => sum + Array.from(one.textContent ?? "").length, 0));
			assert.deepEqual(read.map((text) => text.trim()), seen.map((/** @type {number[]} */ [from, to]) => points.slice(from, to).join("").trim()));
			assert.equal(cut, points.length - seen.reduce((/** @type {number} */ sum, /** @type {number[]} */ [from, to]) => sum + to - from, 0));
			assert.ok(cut > 0);
		}));

	test("every example is answered, and said to be right or wrong", () =>
		onPage(async ({ page }) => {
			for (const set of ["Plain", "Harder", "Tricky", "It errs here"]) {
				await page.click(`button:text-is("${set}")`);
				const chips = page.locator("#example-chips .chip");
				assert.ok((await chips.count()) >= 2);
				for (let n = 0; n < (await chips.count()); n += 1) {
					const wanted = (await chips.nth(n).getAttribute("class"))?.includes("fast") ? "fast" : "slow";
					const answered = page.waitForResponse((response) => response.url().endsWith("/v1/query-classify"));
					await chips.nth(n).click();
					const { label } = await (await answered).json();
					const right = (label === "0") === (wanted === "fast");
					await eventually(async () => (await page.locator("#expected").getAttribute("class"))?.includes(right ? "right" : "wrong"), `the page says ${right}`);
				}
			}
		}));

	test("of a long conversation what was cut is grey in each turn, as the API says", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector("#route");
			const said = ["Tell me about \"lighthouses\" 😀.\nAnd\tships.", "They warn ships of rocks. ".repeat(20), LONG];
			const messages = said.map((content, at) => ({ role: at % 2 ? "assistant" : "user", content }));
			const { seen } = await gateway.ask({ messages });

			await page.click("text=Conversation");
			for (const [at, content] of said.entries()) {
				if (at) await page.click("text=Add a turn");
				await page.locator(".turns textarea").nth(at).fill(content);
			}
			await eventually(async () => (await page.locator("#seen p").count()) === said.length && (await page.locator("#seen p").allTextContents()).join() === said.join(), "every turn is shown whole");

			// As the API counts them: in the JSON that the conversation travels as.
			const points = Array.from(JSON.stringify(messages));
			const bare = (/** @type {string} */ text) => text.replace(/\\[nt]|[\s"\\]/g, "");
			const read = await page.locator("#seen ins").allTextContents();
			assert.equal(bare(read.join("")), bare(seen.map((/** @type {number[]} */ [from, to]) => points.slice(from, to).join("")).join("")));
			assert.ok((await page.locator("#seen p").nth(2).locator("del").allTextContents()).join("").length > 1000);
			assert.match(read.join(""), /Summarize the text above in one sentence\.$/);
		}));

	test("nothing that was typed is in an address, in storage or in the gateway's log", () =>
		onPage(async ({ page, requests }) => {
			await page.waitForSelector("#route");

			await type(page, "zanzibar-secret-4711 please translate");
			await page.click("text=Conversation");
			await page.click("#tab-line");
			await page.click("#tab-now");
			await page.waitForSelector("#report dd");

			const kept = await page.evaluate(async () => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href, history.state, await caches.keys(), await indexedDB.databases()]));
			assert.equal([kept, gateway.log, ...requests].filter((text) => text.includes("zanzibar")).length, 0);
		}));
});

describe("Choose the line", () => {
	const line = { at: "/#line" };

	test("a dropped file of 10,000 rows is shown as the API answers it", () =>
		onPage(async ({ page }) => {
			const texts = manyTexts();
			const answers = await gateway.askAll(texts.map((text) => ({ text })));
			await page.waitForSelector(".drop");

			await drop(page, "mine.jsonl", texts.map((text) => JSON.stringify({ text }) + "\n").join(""));
			await asked(page);

			const own = (await words(page, "#box-own")).split("\n");
			const shown = (/** @type {string} */ name) => own[own.indexOf(name) + 1];
			const fast = answers.filter(({ label }) => label === "0").length;
			assert.equal(number(shown("Rows in all")), ROWS);
			assert.equal(number(shown("Rows fast")), fast);
			assert.equal(shown("Sent fast"), `${((fast / ROWS) * 100).toFixed(1)}%`);

			// Nearest to the line first.
			const rows = await page.locator(".rows .tr").evaluateAll((all) => all.slice(0, 12).map((row) => [...row.children].map((cell) => cell.textContent)));
			assert.equal(rows.length, 12);
			const distances = rows.map((row) => Number(row[4]));
			assert.deepEqual(distances, [...distances].sort((a, b) => a - b));
			for (const [text, route, task, need] of rows) {
				const answer = answers[texts.indexOf(String(text))];
				assert.deepEqual([route, task, need], [answer.route, answer.task.replaceAll("_", " "), answer.need.toFixed(3)]);
			}
		}, line));

	test("100,000 rows leave the page in hand while they are asked and afterwards", () =>
		onPage(async ({ page }) => {
			// Answered by the browser's own side, so that it is the page that is shown here.
			const answer = (/** @type {{text: string}} */ { text }) => {
				const need = ((Number(text.split(" ")[1]) * 7919) % 1000) / 1000;
				return { label: need < 0.3 ? "0" : "1", route: need < 0.3 ? "fast" : "slow", task: "coding", confidence: Math.max(need, 1 - need), need };
			};
			await page.route("**/v1/query-classify", async (route) => {
				const asks = (route.request().postData() ?? "").trimEnd().split("\n");
				const body = asks.map((ask) => JSON.stringify(answer(JSON.parse(ask))) + "\n").join("");
				await route.fulfill({ status: 200, contentType: "application/x-ndjson", body });
			});
			await page.waitForSelector(".drop");
			await page.evaluate(() => {
				const own = /** @type {any} */ (window);
				own.longest = 0;
				new PerformanceObserver((list) => list.getEntries().forEach(({ duration }) => (own.longest = Math.max(own.longest, duration)))).observe({ type: "longtask" });
			});
			const name = path.join(folder, "many.jsonl");
			await writeFile(name, Array.from({ length: MANY }, (_, n) => JSON.stringify({ text: `Row ${n} of the lighthouse` }) + "\n").join(""));

			await page.setInputFiles("#file", name);
			await eventually(async () => (await page.locator(".rows .tr").count()) > 0, "the first rows are there");
			await page.locator("#threshold").fill("0.9");
			assert.match(await words(page, "#policy"), /need_max = 0\.1\b/);
			assert.ok(await page.locator("progress").evaluate((bar) => /** @type {HTMLProgressElement} */ (bar).value < 1), "the slider was moved while rows were asked");
			await asked(page);

			await eventually(async () => (await words(page, "#matching")) === "100,000 rows", "all rows are there");
			await page.click('.head button:has-text("Prompt")');
			await page.locator(".scroll").evaluate((view) => (view.scrollTop = view.scrollHeight));
			await eventually(async () => (await page.locator(".rows .tr").last().innerText()).includes("Row 99999 of"), "the last row is there");
			await page.fill("#search", "row 99999 ");
			await eventually(async () => (await words(page, "#matching")) === "1 of 100,000 rows", "one row is found");
			const saving = page.waitForEvent("download");
			await page.click("#download");
			assert.equal((await readFile(await (await saving).path(), "utf8")).trimEnd().split("\r\n").length, MANY + 1);

			// Not how quick a machine is, but that nothing is done to all rows at once without a pause.
			const longest = await page.evaluate(() => /** @type {any} */ (window).longest);
			assert.ok(longest < FROZEN_MS, `the page stood still for ${longest} ms`);
		}, line));

	/** @param {Gateway} of @param {number[]} thresholds @param {number} most the highest end of the first tier */
	const countsAlike = (of, thresholds, most) =>
		onPage(async ({ page }) => {
			const texts = manyTexts().slice(0, 800);
			await page.waitForSelector(".drop");
			await drop(page, "mine.jsonl", texts.map((text) => JSON.stringify({ text }) + "\n").join(""));
			await asked(page);

			for (const threshold of thresholds) {
				const answers = await of.askAll(texts.map((text) => ({ text, threshold })));
				await page.locator("#threshold").fill(String(threshold));

				const own = (await words(page, "#box-own")).split("\n");
				assert.equal(number(own[own.indexOf("Rows fast") + 1]), answers.filter(({ label }) => label === "0").length, `at ${threshold}`);
				assert.match(await words(page, "#policy"), new RegExp(`need_max = ${Number(Math.min(most, 1 - threshold).toFixed(4))}\\b`));
			}
		}, { ...line, of });

	test("the slider counts as the gateway does at that threshold", () => countsAlike(gateway, [0.5, 0.63, 0.9], 0.5));

	test("the slider goes as far as a policy whose first tier ends over a half", async () => {
		const policy = path.join(folder, "policy.toml");
		await writeFile(policy, ["small:0.8", "middle:0.9", "large:1"].map((tier) => `[[tier]]\nname = "${tier.split(":")[0]}"\nneed_max = ${tier.split(":")[1]}\n`).join(""));
		const wide = await Gateway.start({ POLICY_FILE: policy });
		try {
			await countsAlike(wide, [0.2, 0.31, 0.5, 0.9], 0.8);
		} finally {
			await wide.stop();
		}
	});

	test("the table sorts, filters and scrolls through every row", () =>
		onPage(async ({ page }) => {
			const texts = manyTexts().slice(0, 1500);
			await page.waitForSelector(".drop");
			await drop(page, "mine.csv", `id,prompt\n${texts.map((text, n) => `${n},"${text}"`).join("\n")}\n`);
			await asked(page);
			const first = () => page.locator(".rows .tr").first().locator("[role=cell]").allInnerTexts();

			await page.click('.head button:has-text("Need")');
			const lowest = Number((await first())[3]);
			await page.click('.head button:has-text("Need")');
			const highest = Number((await first())[3]);
			assert.ok(lowest < highest);
			assert.equal(await page.locator('.head [aria-sort="descending"]').innerText(), "Need ▼");

			await page.fill("#search", "lighthouse");
			const found = texts.filter((text) => text.includes("lighthouse")).length;
			await eventually(async () => (await words(page, "#matching")) === `${found} of 1,500 rows`, "only what matches is shown");

			await page.fill("#search", "");
			await page.click('.head button:has-text("Prompt")');
			await page.locator(".scroll").evaluate((view) => (view.scrollTop = view.scrollHeight));
			const last = [...texts].sort().at(-1);
			await eventually(async () => (await page.locator(".rows .tr").last().innerText()).includes(String(last)), "the last row is there");
			assert.ok((await page.locator(".rows .tr").count()) < 60);
		}, line));

	test("the downloaded table holds every row, and no formula", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector(".drop");
			const texts = ['=HYPERLINK("http://x")', 'Say "hi",\nplease', "Translate this: ü, 😀"];
			await drop(page, "mine.jsonl", texts.map((text, n) => JSON.stringify({ id: `q${n}`, text }) + "\n").join(""));
			await asked(page);

			const download = page.waitForEvent("download");
			await page.click("#download");
			const saved = await readFile(await (await download).path(), "utf8");

			const lines = saved.split("\r\n");
			assert.equal(lines[0], "row,id,text,route,task,need,confidence,error");
			assert.ok(lines[1].startsWith(`1,q0,"'=HYPERLINK(""http://x"")",`), lines[1]);
			assert.ok(saved.includes('2,q1,"Say ""hi"",\nplease",'));
			assert.ok(saved.includes('"Translate this: ü, 😀"'));
		}, line));

	test("the policy is copied as it stands", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector("#policy");
			await page.locator("#threshold").fill("0.8");

			await page.click('button:text-is("Copy")');
			await page.waitForSelector('button:text-is("Copied")');

			const copied = await page.evaluate(() => navigator.clipboard.readText());
			assert.ok(copied.includes('[[tier]]\nname = "fast"\nneed_max = 0.2\n'));
			assert.equal(copied, await page.locator("#policy").textContent());
		}, line));

	test("prices make the cost that two prices make", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector(".drop");
			await page.fill("#price-small", "1");
			await page.fill("#price-large", "5");
			await page.click("text=Take this page's examples");
			await asked(page);

			const own = (await words(page, "#box-own")).split("\n");
			const shown = (/** @type {string} */ name) => number(own[own.indexOf(name) + 1]);
			const share = shown("Rows fast") / shown("Rows in all");
			assert.equal(shown("Cost of 1,000"), Number((share * 1 + (1 - share) * 5).toFixed(2)));
		}, line));

	test("the measured curve is the one of the deep report", () =>
		onPage(async ({ page }) => {
			const deep = await (await fetch(`${gateway.url}/health/deep`)).json();
			const curve = deep.checks.model.curve;
			await page.waitForSelector("#threshold");

			if (!curve.length) assert.match(await words(page, "#line"), /holds no measured curve/);
			else {
				const point = curve[Math.floor(curve.length / 2)];
				await page.locator("#threshold").fill(String(point.threshold));
				assert.ok((await words(page, "#box-measured")).includes(`${(point.share_fast * 100).toFixed(1)}%`));
			}
		}, line));

	/** @type {[string, string, string | Buffer, RegExp][]} */
	const BAD = [
		["a picture", "a.jsonl", Buffer.from("89504e470d0a1a0a0000000d49484452", "hex"), /binary file/],
		["a packed file", "a.csv.gz", Buffer.from("1f8b0800000000000003", "hex"), /binary file/],
		["an empty file", "a.csv", "", /is empty/],
		["a CSV without a column of texts", "a.csv", "name,age\nMina,31\n", /has the columns name, age\. One must be named text/],
		["JSON lines without a text", "a.jsonl", '{"name":"Mina"}\n'.repeat(30), /Line 1: it has name; one of text/],
		["broken lines from the start", "a.jsonl", '{"text": oops\n'.repeat(30), /Line 1: it is no JSON/],
		["a JSON list", "a.json", '[{"text":"a"}]', /one JSON list/],
		["a quote that is never closed", "a.csv", 'text\n"Say hello\nand bye\n', /opens in line 2 is never closed/],
		["another encoding", "a.csv", Buffer.concat([Buffer.from("text\n"), Buffer.from([0xfc, 0x62, 0x65, 0x72, 0x0a])]), /not text in UTF-8/],
		["prose that is called JSON lines", "a.jsonl", "Dear all, hello\n", /is no JSON object/],
		["only a head", "a.csv", "text\n", /no row/],
	];
	test("a file that cannot be used is refused in a sentence", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector(".drop");
			for (const [what, name, content, says] of BAD) {
				await writeFile(path.join(folder, name), content);
				await page.setInputFiles("#file", path.join(folder, name));

				await eventually(async () => says.test(await page.locator("#file-trouble").innerText()), `${what}: ${says}`);
				assert.equal(await page.locator(".table").isVisible(), false);
			}
		}, line));

	test("a file of a gigabyte is refused before it is read", () =>
		onPage(async ({ page }) => {
			const file = await open(path.join(folder, "huge.csv"), "w");
			await file.truncate(2 ** 30);
			await file.close();
			await page.waitForSelector(".drop");

			await page.setInputFiles("#file", path.join(folder, "huge.csv"));

			await eventually(async () => /is 1\.0 GB; the page reads at most 256 MB/.test(await page.locator("#file-trouble").innerText()), "it says how large");
		}, line));

	test("broken lines among good ones are counted, and the first is named", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector(".drop");

			await drop(page, "a.jsonl", '{"text":"hi"}\n{"text":\n\n[1]\n{"text":"bye"}\n');
			await asked(page);

			assert.equal(await words(page, "#file-told"), "2 rows answered; 2 lines could not be read (line 2: it is no JSON).");
		}, line));

	test("conversations in a file are asked as conversations", () =>
		onPage(async ({ page }) => {
			const messages = [{ role: "user", content: "hi" }, { role: "assistant", content: "Hello!" }, { role: "user", content: "Plan a wedding for 80 guests." }];
			const answer = await gateway.ask({ messages });
			await page.waitForSelector(".drop");

			await drop(page, "log.jsonl", JSON.stringify({ custom_id: "r1", body: { model: "x", messages } }) + "\n");
			await asked(page);

			const [text, route, , need] = await page.locator(".rows .tr").first().locator("[role=cell]").allInnerTexts();
			assert.deepEqual([text, route, need], ["Plan a wedding for 80 guests.", answer.route, answer.need.toFixed(3)]);
		}, line));
});

describe("Now", () => {
	const now = { at: "/#now" };

	test("tasks and tiles are those of the metrics", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector("#report dd");
			for (let n = 0; n < 40; n += 1) await gateway.ask({ text: `Write a poem about number ${n % 20}` });

			await eventually(async () => Number((await page.locator(".tile dd").nth(1).innerText()).replace("…", "0")) > 0, "queries a second are over 0");
			await eventually(async () => /\d+%/.test(await page.locator(".tile dd").nth(4).innerText()), "there is a hit rate");
			const deep = await (await fetch(`${gateway.url}/health/deep`)).json();
			assert.ok((await words(page, "#report")).includes(deep.checks.model.version));
			assert.equal(await words(page, ".tile >> nth=0"), `Model\n${deep.checks.model.version}`);
			assert.equal(await page.locator("#now .mix li").count(), deep.checks.model.tasks.length);
		}, now));

	test("alerts come from the one Prometheus that the policy allows", async () => {
		const alerts = { status: "success", data: { alerts: [{ state: "firing", labels: { alertname: "HighP99Latency", severity: "warning" }, annotations: { description: "The 99th percentile is 249ms." } }] } };
		const asked_for = /** @type {string[]} */ ([]);
		const stub = createServer((request, response) => {
			asked_for.push(String(request.url));
			response.writeHead(200, { "content-type": "application/json", "access-control-allow-origin": "*" }).end(JSON.stringify(alerts));
		});
		const port = await freePort();
		await new Promise((resolve) => stub.listen(port, "127.0.0.1", () => resolve(null)));
		const prometheus = `http://127.0.0.1:${port}`;
		const watched = await Gateway.start({ PROMETHEUS_URL: prometheus });
		try {
			await onPage(
				async ({ page }) => {
					await page.waitForSelector(".alerts li");
					assert.match(await words(page, ".alerts"), /HighP99Latency The 99th percentile is 249ms\./);

					const elsewhere = await page.evaluate((url) => fetch(url).then(() => "asked", () => "refused"), `${prometheus}/api/v1/query`);
					assert.equal(elsewhere, "refused");
					assert.deepEqual([...new Set(asked_for)], ["/api/v1/alerts"]);
				},
				{ ...now, of: watched, also: [prometheus], expected: /Content Security Policy|Refused to connect|^policy: connect-src/ },
			);
		} finally {
			await watched.stop();
			stub.close();
		}
	});
});

describe("API reference", () => {
	const docs = { at: "/docs" };

	test("every operation of the document is there", () =>
		onPage(async ({ page }) => {
			const { paths } = await (await fetch(`${gateway.url}/schema`)).json();
			const operations = Object.entries(paths).flatMap(([path, item]) => Object.keys(/** @type {object} */ (item)).filter((method) => /^(get|post|put|delete|patch|head|options)$/.test(method)).map((method) => `${method.toUpperCase()} ${path}`));
			await page.waitForSelector(".operation");

			const shown = await page.locator(".operation > summary").evaluateAll((all) => all.map((one) => `${one.querySelector(".method")?.textContent} ${one.querySelector("code")?.textContent}`));

			assert.deepEqual(shown.sort(), operations.sort());
		}, docs));

	test("a query asked from it is answered", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector(".operation");
			const form = page.locator(".operation", { has: page.locator('code:text-is("/v1/query-classify")') }).first();
			await form.locator("textarea").fill('{"text": "hi"}');

			await form.locator("button.primary").click();

			const { label, task } = await gateway.ask({ text: "hi" });
			const answer = JSON.parse(await form.locator("pre.answer").innerText());
			assert.deepEqual([answer.label, answer.task], [label, task]);
		}, docs));
});

describe("When it cannot be had", () => {
	const network = /Failed to load resource/;

	test("with keys, the page asks for one, and the right one opens it", async () => {
		const key = "qg_page-test-key";
		const digest = [...new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(key)))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
		const locked = await Gateway.start({ API_KEYS: digest, OPS_KEYS: digest });
		try {
			await onPage(
				async ({ page, requests }) => {
					await page.waitForSelector("#trouble");
					assert.match(await words(page, "#trouble"), /asks for a key/);

					await page.click("#keys-open");
					await page.fill("#key-caller", "wrong");
					await page.click("#keys-use");
					await eventually(async () => /does not know this key/.test(await page.locator("#outcome").innerText()), "a wrong key is said to be unknown");

					await page.click("#keys-open");
					await page.fill("#key-caller", key);
					await page.fill("#key-operator", key);
					await page.keyboard.press("Enter");
					await page.waitForSelector("#route");
					await page.click("#tab-now");
					await page.waitForSelector("#report dd");

					const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href]));
					assert.equal([kept, locked.log, ...requests].filter((text) => text.includes(key)).length, 0);
				},
				{ of: locked, expected: network },
			);
		} finally {
			await locked.stop();
		}
	});

	test("without a model it says so", async () => {
		const empty = await Gateway.start({ MODEL_PATH: path.join(folder, "nothing") }, 0, "/health/live");
		try {
			await onPage(
				async ({ page }) => {
					await page.waitForSelector("#trouble");

					assert.match(await words(page, "#trouble"), /answers no queries now: no model/i);
					await eventually(async () => (await words(page, "#state")) === "Not ready", "the state says so too");
				},
				{ of: empty, expected: network },
			);
		} finally {
			await empty.stop();
		}
	});

	test("with the gateway stopped it says so, and goes on by itself once it is back", async () => {
		const first = await Gateway.start();
		/** @type {Gateway | undefined} */
		let second;
		try {
			await onPage(
				async ({ page }) => {
					await page.waitForSelector("#route");
					await first.stop();

					await page.fill("#prompt", "Translate into German: good morning");
					await page.waitForSelector("#trouble");
					assert.match(await words(page, "#trouble"), /does not answer\. It may be stopped/);

					second = await Gateway.start({}, first.port);
					await page.waitForSelector("#route");
				},
				{ of: first, expected: network },
			);
		} finally {
			await first.stop();
			await second?.stop();
		}
	});

	test("a refusal of a full gateway is told, and the query asked again", () =>
		onPage(
			async ({ page }) => {
				await page.waitForSelector("#route");
				let refusals = 0;
				await page.route("**/v1/query-classify", (route) =>
					(refusals += 1) > 1
						? route.fallback()
						: route.fulfill({ status: 429, headers: { "retry-after": "1" }, json: { error: { code: 429, status: "RESOURCE_EXHAUSTED", message: "the queue is full", details: [] } } }),
				);

				await page.fill("#prompt", "Name three rivers");
				await page.waitForSelector("#trouble");
				assert.match(await words(page, "#trouble"), /as many queries as it can take/);

				await page.waitForSelector("#route");
				assert.equal(refusals, 2);
			},
			{ expected: network },
		));

	test("rows that a full gateway refuses are asked again until each is answered", () =>
		onPage(
			async ({ page }) => {
				let refusals = 0;
				await page.waitForSelector(".drop");
				await page.route("**/v1/query-classify", (route) => {
					if (route.request().headers()["content-type"] !== "application/x-ndjson" || refusals >= 2) return route.fallback();
					refusals += 1;
					return refusals === 1
						? route.fulfill({ status: 429, headers: { "retry-after": "1" }, json: { error: { code: 429, status: "RESOURCE_EXHAUSTED", message: "the queue is full", details: [] } } })
						: route.fulfill({ status: 200, headers: { "content-type": "application/x-ndjson" }, body: '{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"the queue is full","details":[]}}\n' });
				});

				await drop(page, "a.jsonl", '{"text":"hi"}\n{"text":"bye"}\n');
				await asked(page);

				assert.equal(await words(page, "#file-told"), "2 rows answered.");
			},
			{ at: "/#line", expected: network },
		));
});

describe("For everybody", () => {
	const VIEWS = { try: "#route", line: "#policy", now: "#report dd" };

	/** @param {import("playwright-core").Page} page @param {string} view */
	async function ready(page, view) {
		await page.waitForSelector(VIEWS[/** @type {"try"} */ (view)] ?? ".operation");
		if (view === "line") {
			await page.click("text=Take this page's examples");
			await asked(page);
		}
	}

	for (const dark of [false, true])
		for (const view of ["try", "line", "now", "docs"])
			test(`axe finds nothing to complain of: ${view}, ${dark ? "dark" : "light"}`, () =>
				onPage(
					async ({ page }) => {
						await ready(page, view);
						await page.waitForTimeout(300); // colours that fade
						await page.evaluate(await readFile(AXE, "utf8"));

						const { violations } = await page.evaluate(() => /** @type {any} */ (window).axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));

						assert.deepEqual(violations.map((/** @type {any} */ one) => `${one.id}: ${one.nodes.map((/** @type {any} */ node) => node.html).join(" ").slice(0, 400)}`), []);
					},
					{ at: view === "docs" ? "/docs" : `/#${view}`, dark, expected: /axe|TrustedScript|trusted-types/i },
				));

	for (const width of [360, 768, 1280])
		test(`nothing is wider than a screen of ${width} pixels`, async () => {
			for (const view of ["try", "line", "now", "docs"])
				await onPage(
					async ({ page }) => {
						await ready(page, view);

						const wide = await page.evaluate(() => Number(document.scrollingElement?.scrollWidth) - innerWidth);

						assert.ok(wide <= 0, `${view}: ${wide} pixels too wide`);
						if (process.env.LOOK)
							for (const dark of [false, true]) {
								await page.emulateMedia({ colorScheme: dark ? "dark" : "light" });
								await page.waitForTimeout(300);
								await page.screenshot({ path: path.join(process.env.LOOK, `${view}-${width}-${dark ? "dark" : "light"}.png`), fullPage: true });
							}
					},
					{ at: view === "docs" ? "/docs" : `/#${view}`, width },
				);
		});

	test("the views are reached by keyboard alone", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector("#route");
			await page.focus("#tab-try");

			await page.keyboard.press("ArrowRight");
			await page.waitForSelector("#policy");
			assert.equal(await page.evaluate(() => document.activeElement?.id), "tab-line");
			await page.focus("#threshold");
			const before = await page.inputValue("#threshold");
			await page.keyboard.press("ArrowRight");
			assert.notEqual(await page.inputValue("#threshold"), before);
			await page.focus("#tab-line");
			await page.keyboard.press("End");
			await page.waitForSelector("#report dd");

			assert.equal(await page.getAttribute("#tab-now", "aria-selected"), "true");
		}));

	test("the theme can be switched either way", () =>
		onPage(async ({ page }) => {
			const colour = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
			const light = await colour();

			await page.click("#theme");
			const dark = await colour();
			await page.click("#theme");

			assert.notEqual(dark, light);
			assert.equal(await colour(), light);
		}));

	test("what a screen reader is told of a decision is the decision", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector("#route");
			const text = "Fix the grammar: he go home";
			const answer = await gateway.ask({ text });

			await type(page, text);

			assert.equal(await page.locator("#spoken").textContent(), `${answer.route}, ${answer.task.replaceAll("_", " ")}, confidence ${(answer.confidence * 100).toFixed(0)}%`);
		}));
});

describe("Pictures", { skip: !process.env.PICTURES }, () => {
	const pictures = String(process.env.PICTURES);
	const sizes = { width: 1120, height: 700 };

	/** @param {import("playwright-core").Page} page @param {string} name @param {number} [height] */
	async function shot(page, name, height = sizes.height) {
		await page.setViewportSize({ width: sizes.width, height });
		await page.waitForTimeout(400);
		await page.screenshot({ path: path.join(pictures, `page-${name}.png`) });
	}

	test("Try", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector("#tasks");
			await shot(page, "try", 690);
		}, sizes));

	test("Choose the line", () =>
		onPage(async ({ page }) => {
			await page.waitForSelector(".drop");
			await drop(page, "log.jsonl", manyTexts().slice(0, 2000).map((text) => JSON.stringify({ text }) + "\n").join(""));
			await asked(page);
			await shot(page, "line", 1010);
		}, { at: "/#line", ...sizes }));

	test("Now", () =>
		onPage(async ({ page }) => {
			const texts = manyTexts();
			for (let n = 0; n < 20; n += 1) {
				for (let each = 0; each < 20 + 10 * (n % 4); each += 1) await gateway.ask({ text: texts[(n * 37 + each * 11) % 900] });
				await page.waitForTimeout(1000);
			}
			await shot(page, "now", 960);
		}, { at: "/#now", dark: true, ...sizes }));
});
