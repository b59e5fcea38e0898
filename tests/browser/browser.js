// A browser whose every complaint is a failure: console errors, policy violations, requests to other hosts.

import { chromium } from "playwright-core";

const FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync --force-color-profile=srgb";

// Only a machine that is busy with other things takes this long.
const WITHIN_MS = 90_000;

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS.split(" ") });

/**
 * A fresh page and all that went wrong on it.
 * @param {import("playwright-core").Browser} browser
 * @param {string} host whose requests are its own
 * @param {{width?: number, height?: number, dark?: boolean, also?: string[], expected?: RegExp}} [options]
 *   also      other hosts that it may ask
 *   expected  complaints that the test is about
 */
export async function visit(browser, host, { width = 1280, height = 860, dark = false, also = [], expected = /(?!)/ } = {}) {
	const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? "dark" : "light", acceptDownloads: true, permissions: ["clipboard-read", "clipboard-write"] });
	await context.addInitScript(() => {
		const own = /** @type {any} */ (window);
		own.violations = [];
		document.addEventListener("securitypolicyviolation", (event) => own.violations.push(`${event.violatedDirective}: ${event.blockedURI}`));
	});
	const page = await context.newPage();
	page.setDefaultTimeout(WITHIN_MS);
	page.setDefaultNavigationTimeout(WITHIN_MS);
	/** @type {string[]} */
	const complaints = [];
	/** @type {string[]} */
	const requests = [];
	const complain = (/** @type {string} */ what) => expected.test(what) || complaints.push(what);
	page.on("console", (message) => ["error", "warning"].includes(message.type()) && complain(`console: ${message.text()}`));
	page.on("pageerror", (error) => complain(`error: ${error.message}`));
	page.on("request", (request) => {
		requests.push(request.url());
		const url = new URL(request.url());
		if (["http:", "https:", "ws:", "wss:"].includes(url.protocol) && ![host, ...also].includes(url.origin)) complain(`request to ${url.origin}`);
	});
	return {
		page,
		requests,
		/** Close it; what it complained of. */
		async close() {
			for (const violation of await page.evaluate(() => /** @type {any} */ (window).violations).catch(() => [])) complain(`policy: ${violation}`);
			await context.close();
			return complaints;
		},
	};
}

/**
 * Poll until `holds` gives something true, and return it.
 * @template T
 * @param {() => T | Promise<T>} holds
 * @param {string} what
 * @param {number} [withinMs]
 * @returns {Promise<NonNullable<T>>}
 */
export async function eventually(holds, what, withinMs = WITHIN_MS) {
	for (const end = Date.now() + withinMs; ; await new Promise((resolve) => setTimeout(resolve, 40))) {
		const found = await holds();
		if (found) return found;
		if (Date.now() > end) throw new Error(`not within ${withinMs} ms: ${what}`);
	}
}
