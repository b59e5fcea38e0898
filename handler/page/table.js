// A table of many rows of which only those in view exist.

import { fill, h } from "./dom.js";

const ROW_PX = 34;
const SPARE = 8;

/**
 * @typedef {{name: string, title: string, number?: boolean, show: (row: number) => import("./dom.js").Child}} Column
 */

/**
 * @param {Column[]} columns
 * @param {string} label
 * @param {(column: string) => void} onSort
 */
export function table(columns, label, onSort) {
	const body = h("div", { class: "rows", role: "presentation" });
	const space = h("div", { class: "space", role: "presentation" }, body);
	const heads = columns.map((column) =>
		h(
			"div",
			{ role: "columnheader", class: column.number ? "number" : "", "aria-sort": "none" },
			h("button", { type: "button", class: "quiet", onclick: () => onSort(column.name) }, column.title, h("span", { "aria-hidden": "true" })),
		),
	);
	const view = h("div", { class: "scroll", tabindex: "0", role: "rowgroup", "aria-label": "Rows" }, space);
	const element = h(
		"div",
		{ class: "table", role: "table", "aria-label": label, "aria-colcount": columns.length },
		h("div", { role: "rowgroup", class: "head-group" }, h("div", { class: "tr head", role: "row", "aria-rowindex": 1 }, ...heads)),
		view,
	);
	/** @type {Uint32Array} */
	let order = new Uint32Array();
	let drawnFrom = -1;
	let drawnTo = -1;

	/** @param {boolean} [anew] */
	function draw(anew = false) {
		const from = Math.max(0, Math.floor(view.scrollTop / ROW_PX) - SPARE);
		const to = Math.min(order.length, Math.ceil((view.scrollTop + view.clientHeight) / ROW_PX) + SPARE);
		if (!anew && from === drawnFrom && to === drawnTo) return;
		drawnFrom = from;
		drawnTo = to;
		body.style.setProperty("transform", `translateY(${from * ROW_PX}px)`);
		fill(
			body,
			...Array.from(order.subarray(from, to), (row, n) =>
				h(
					"div",
					{ class: "tr", role: "row", "aria-rowindex": from + n + 2 },
					...columns.map((column) => h("div", { role: "cell", class: `${column.number ? "number " : ""}c-${column.name}` }, column.show(row))),
				),
			),
		);
	}
	view.addEventListener("scroll", () => draw());
	new ResizeObserver(() => draw(true)).observe(view);

	return {
		element,
		/**
		 * @param {Uint32Array} rows in the order to be shown
		 * @param {string} sorted the column that they are sorted by
		 * @param {boolean} rising
		 */
		show(rows, sorted, rising) {
			order = rows;
			element.setAttribute("aria-rowcount", String(rows.length + 1));
			space.style.setProperty("height", `${rows.length * ROW_PX}px`);
			columns.forEach((column, n) => {
				heads[n].setAttribute("aria-sort", column.name !== sorted ? "none" : rising ? "ascending" : "descending");
				const arrow = heads[n].querySelector("span");
				if (arrow) arrow.textContent = column.name !== sorted ? "" : rising ? " ▲" : " ▼";
			});
			draw(true);
		},
		top: () => (view.scrollTop = 0),
	};
}
