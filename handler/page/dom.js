// Elements without HTML in strings: what comes from outside is only ever text.

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * @param {Element} element
 * @param {Record<string, unknown>} given attributes; `on…` are listeners, false and null are left out
 * @param {Child[]} children
 */
function dressed(element, given, children) {
	for (const [name, value] of Object.entries(given)) {
		if (value === false || value === null || value === undefined) continue;
		if (name.startsWith("on")) element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
		else element.setAttribute(name, value === true ? "" : String(value));
	}
	add(element, ...children);
}

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, unknown>} [given]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, given = {}, ...children) {
	const element = document.createElement(tag);
	dressed(element, given, children);
	return element;
}

/**
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, unknown>} [given]
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[T]}
 */
export function s(tag, given = {}, ...children) {
	const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
	dressed(element, given, children);
	return element;
}

/** @param {Element} parent @param {...Child} children */
export function add(parent, ...children) {
	for (const child of children) {
		if (child === null || child === undefined || child === false) continue;
		parent.append(child instanceof Node ? child : String(child));
	}
}

/** @param {Element} parent @param {...Child} children */
export function fill(parent, ...children) {
	parent.replaceChildren();
	add(parent, ...children);
}

/**
 * @template {Element} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function byId(id, kind) {
	const found = document.getElementById(id);
	if (!(found instanceof kind)) throw new Error(`#${id} is missing`);
	return found;
}

/** @param {() => void} act @param {number} waitMs */
export function debounced(act, waitMs) {
	let timer = 0;
	return () => {
		clearTimeout(timer);
		timer = window.setTimeout(act, waitMs);
	};
}

/** @param {number} share @param {number} [digits] */
export const percent = (share, digits = 0) =>
	Number.isFinite(share) ? `${(share * 100).toFixed(digits)}%` : "–";

/** @param {number} count */
export const whole = (count) => count.toLocaleString("en");

/** @param {number} seconds */
export function milliseconds(seconds) {
	const ms = seconds * 1000;
	return Number.isFinite(ms) ? `${ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : ms.toFixed(0)} ms` : "–";
}

/** @param {string} task */
export const spoken = (task) => task.replaceAll("_", " ");

/**
 * Hand a made file to the user.
 * @param {BlobPart[]} parts @param {string} name @param {string} type
 */
export function save(parts, name, type) {
	const url = URL.createObjectURL(new Blob(parts, { type }));
	h("a", { href: url, download: name }).click();
	setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** @param {string} text @param {HTMLButtonElement} button */
export async function copy(text, button) {
	const before = button.textContent;
	try {
		await navigator.clipboard.writeText(text);
		button.textContent = "Copied";
	} catch {
		button.textContent = "Select it and press Ctrl+C";
	}
	setTimeout(() => (button.textContent = before), 2000);
}
