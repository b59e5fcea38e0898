// The page: three views, the state of the gateway, keys. Each view is a module; start reading in `try.js`.

import { call, keys, Refused } from "./api.js";
import { byId } from "./dom.js";
import { facts, refresh, watch } from "./facts.js";
import { showTry } from "./try.js";

const LOOK_EVERY_MS = 5000;

/** @typedef {{open: () => void, close?: () => void}} View */

/** @type {Record<string, () => Promise<View>>} views that are fetched when they are first opened */
const LATER = {
	line: async () => (await import("./line.js")).showLine(byId("line", HTMLElement)),
	now: async () => (await import("./now.js")).showNow(byId("now", HTMLElement)),
};
/** @type {Record<string, View>} */
const views = {};
let current = "try";

/** @param {string} name */
async function open(name) {
	if (!(name in LATER) && name !== "try") name = "try";
	views[current]?.close?.();
	current = name;
	for (const tab of tabs()) {
		const chosen = tab.id === `tab-${name}`;
		tab.setAttribute("aria-selected", String(chosen));
		tab.tabIndex = chosen ? 0 : -1;
		byId(tab.id.slice(4), HTMLElement).hidden = !chosen;
	}
	views[name] ??= await (LATER[name]?.() ?? showTry(byId("try", HTMLElement)));
	if (current === name) views[name].open();
}

const tabs = () => [...document.querySelectorAll('[role="tab"]')].map((tab) => /** @type {HTMLButtonElement} */ (tab));

for (const tab of tabs())
	tab.addEventListener("click", () => {
		history.replaceState(null, "", `#${tab.id.slice(4)}`);
		void open(tab.id.slice(4));
	});
byId("tab-try", HTMLElement).parentElement?.addEventListener("keydown", (event) => {
	const all = tabs();
	const at = all.findIndex((tab) => tab.getAttribute("aria-selected") === "true");
	const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
	if (to === undefined) return;
	event.preventDefault();
	const next = all[(to + all.length) % all.length];
	next.focus();
	next.click();
});
addEventListener("hashchange", () => void open(location.hash.slice(1)));

// State of the gateway

/** @param {string} kind @param {string} words */
function say(kind, words) {
	const state = byId("state", HTMLElement);
	if (state.dataset.kind === kind && byId("state-words", HTMLElement).textContent === words) return;
	state.dataset.kind = kind;
	byId("state-words", HTMLElement).textContent = words;
}

async function look() {
	try {
		await call("/health/ready");
		if (!facts.known) await refresh().catch(() => undefined);
		say("good", facts.version ? `Ready · model ${facts.version}` : "Ready");
	} catch (error) {
		if (error instanceof Refused && error.code === 0) say("bad", "Gateway stopped");
		else if (error instanceof Refused && error.code === 503) say("bad", "Not ready");
		else say("bad", "Unknown");
	}
}
watch(() => facts.version && say("good", `Ready · model ${facts.version}`));
setInterval(() => document.visibilityState === "visible" && void look(), LOOK_EVERY_MS);

// Keys

const dialog = byId("keys", HTMLDialogElement);
const caller = byId("key-caller", HTMLInputElement);
const operator = byId("key-operator", HTMLInputElement);

function useKeys() {
	keys.caller = caller.value.trim();
	keys.operator = operator.value.trim();
	dialog.close();
	void refresh().catch(() => undefined).then(() => views[current]?.open());
}
byId("keys-open", HTMLElement).addEventListener("click", () => dialog.showModal());
byId("keys-use", HTMLElement).addEventListener("click", useKeys);
byId("keys-forget", HTMLElement).addEventListener("click", () => {
	caller.value = operator.value = "";
	useKeys();
});
dialog.addEventListener("keydown", (event) => {
	if (event.key !== "Enter" || !(event.target instanceof HTMLInputElement)) return;
	// Else the key would also press the button that gets the focus back, and open the dialog anew.
	event.preventDefault();
	useKeys();
});

byId("theme", HTMLElement).addEventListener("click", () => {
	const root = document.documentElement;
	const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
	root.dataset.theme = dark ? "light" : "dark";
});

await Promise.all([look(), open(location.hash.slice(1) || "try")]);
