// Small charts in SVG, drawn at the size that they have on the screen.

import { fill, h, s } from "./dom.js";

const LEFT = 44;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 24;

/**
 * @typedef {{name: string, kind: string, points: [number, number][]}} Series `kind` is its colour's class
 * @typedef {object} Drawing
 * @property {Series[]} series
 * @property {[number, number]} x range
 * @property {number} [yMax] at least
 * @property {(value: number) => string} [xWords]
 * @property {(value: number) => string} [yWords]
 * @property {number | null} [at] where an upright line stands
 * @property {number[]} [xTicks]
 * @property {boolean} [filled]
 * @property {boolean} [bars] a bar for each point of the first series, as wide as they are apart
 */

/**
 * A chart that follows its width. `label` says in words what it shows.
 * @param {string} label
 * @param {number} height
 */
export function chart(label, height) {
	const drawing = s("svg", { role: "img", "aria-label": label, class: "chart", height });
	const legend = h("ul", { class: "legend" });
	const element = h("figure", { class: "figure" }, drawing, legend);
	/** @type {Drawing | null} */
	let shown = null;

	function draw() {
		if (!shown) return;
		const width = Math.max(element.clientWidth, 160);
		const { series, x, at, filled, bars } = shown;
		const yTop = nice(Math.max(shown.yMax ?? 0, ...series.flatMap((one) => one.points.map(([, y]) => (Number.isFinite(y) ? y : 0)))));
		const toX = (/** @type {number} */ value) => LEFT + ((value - x[0]) / (x[1] - x[0] || 1)) * (width - LEFT - RIGHT);
		const toY = (/** @type {number} */ value) => TOP + (1 - value / yTop) * (height - TOP - BOTTOM);
		const yWords = shown.yWords ?? String;
		const xWords = shown.xWords ?? String;
		const ticks = shown.xTicks ?? [x[0], (x[0] + x[1]) / 2, x[1]];
		drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
		drawing.setAttribute("width", String(width));
		fill(
			drawing,
			...[0, 0.5, 1].map((share) => s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: toY(share * yTop), y2: toY(share * yTop) })),
			...[0, 0.5, 1].map((share) => s("text", { x: LEFT - 6, y: toY(share * yTop) + 4, "text-anchor": "end" }, yWords(share * yTop))),
			...ticks.map((value, n) =>
				s("text", { x: toX(value), y: height - 6, "text-anchor": n === 0 ? "start" : n === ticks.length - 1 ? "end" : "middle" }, xWords(value)),
			),
			...series.flatMap((one, n) => {
				if (bars && n === 0) {
					const wide = (width - LEFT - RIGHT) / one.points.length;
					return one.points.map(([px, py]) => s("rect", { class: `bar-${px < (at ?? 0) ? "fast" : "slow"}`, x: toX(px) - wide / 2 + 0.5, width: Math.max(wide - 1, 1), y: toY(py), height: Math.max(toY(0) - toY(py), 0) }));
				}
				const path = line(one.points, toX, toY);
				if (!path) return [];
				const last = one.points.at(-1);
				const area = filled && last ? s("path", { class: `area ${one.kind}`, d: `${path}L${toX(last[0])} ${toY(0)}L${toX(one.points[0][0])} ${toY(0)}Z` }) : null;
				return [area, s("path", { class: `curve ${one.kind}`, d: path })];
			}),
			at !== null && at !== undefined && s("line", { class: "at", x1: toX(at), x2: toX(at), y1: TOP - 4, y2: height - BOTTOM }),
		);
		fill(legend, ...(series.length > 1 || series[0]?.name ? series.map((one) => h("li", {}, h("span", { class: `key ${one.kind}` }), one.name)) : []));
	}

	new ResizeObserver(draw).observe(element);
	return {
		element,
		/** @param {Drawing} what @param {string} [words] what it shows now */
		show(what, words) {
			shown = what;
			if (words) drawing.setAttribute("aria-label", words);
			draw();
		},
	};
}

/**
 * @param {[number, number][]} points
 * @param {(value: number) => number} toX
 * @param {(value: number) => number} toY
 */
function line(points, toX, toY) {
	let path = "";
	let drawing = false;
	for (const [x, y] of points) {
		if (!Number.isFinite(y)) {
			drawing = false;
			continue;
		}
		path += `${drawing ? "L" : "M"}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`;
		drawing = true;
	}
	return path;
}

/** @param {number} value the next round number at or over it */
function nice(value) {
	if (!(value > 0)) return 1;
	const unit = 10 ** Math.floor(Math.log10(value));
	return ([1, 2, 2.5, 5, 10].find((step) => step * unit >= value * 0.999) ?? 10) * unit;
}
