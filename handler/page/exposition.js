// Prometheus' text format, as far as the gateway writes it, and what is counted between two scrapes.

/** @typedef {{labels: Record<string, string>, value: number}} Sample */

/** One scrape: samples by the metric's name. */
export class Scrape {
	/** @param {string} text @param {number} at in seconds */
	constructor(text, at) {
		this.at = at;
		/** @type {Map<string, Sample[]>} */
		this.samples = new Map();
		for (const line of text.split("\n")) {
			const found = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
			if (!found) continue;
			/** @type {Record<string, string>} */
			const labels = {};
			for (const [, name, value] of (found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
			const value = found[3] === "+Inf" ? Infinity : Number(found[3]);
			const list = this.samples.get(found[1]);
			if (list) list.push({ labels, value });
			else this.samples.set(found[1], [{ labels, value }]);
		}
	}

	/** @param {string} name @param {(labels: Record<string, string>) => boolean} [only] */
	sum(name, only = () => true) {
		const found = this.samples.get(`query_gateway_${name}`)?.filter(({ labels }) => only(labels));
		return found?.length ? found.reduce((total, { value }) => total + value, 0) : NaN;
	}

	/** Sums by one label. @param {string} name @param {string} label */
	by(name, label) {
		/** @type {Record<string, number>} */
		const sums = {};
		for (const { labels, value } of this.samples.get(`query_gateway_${name}`) ?? []) sums[labels[label]] = (sums[labels[label]] ?? 0) + value;
		return sums;
	}

	/** A histogram's cumulative buckets. @param {string} name @returns {[number, number][]} */
	buckets(name) {
		const sums = Object.entries(this.by(`${name}_bucket`, "le"));
		return sums.map(([le, count]) => /** @type {[number, number]} */ ([le === "+Inf" ? Infinity : Number(le), count])).sort((a, b) => a[0] - b[0]);
	}
}

/**
 * Buckets of what came between two scrapes; after a restart, of what came since.
 * @param {[number, number][]} before
 * @param {[number, number][]} after
 */
export function between(before, after) {
	const restarted = (after.at(-1)?.[1] ?? 0) < (before.at(-1)?.[1] ?? 0);
	return after.map(([le, count], n) => /** @type {[number, number]} */ ([le, count - (restarted ? 0 : (before[n]?.[1] ?? 0))]));
}

/**
 * What two histograms with the same edges differ by.
 * @param {[number, number][]} all
 * @param {[number, number][]} part
 */
export const without = (all, part) => (part.length === all.length ? all.map(([le, count], n) => /** @type {[number, number]} */ ([le, Math.max(0, count - part[n][1])])) : []);

/**
 * A quantile as Prometheus estimates it: linear within its bucket; NaN where nothing came.
 * @param {number} q
 * @param {[number, number][]} buckets cumulative
 */
export function quantile(q, buckets) {
	const total = buckets.at(-1)?.[1] ?? 0;
	if (!(total > 0)) return NaN;
	const rank = q * total;
	const at = buckets.findIndex(([, count]) => count >= rank);
	const [high, upTo] = buckets[at];
	const [low, below] = at > 0 ? buckets[at - 1] : [0, 0];
	if (high === Infinity) return low;
	return low + (high - low) * (upTo > below ? (rank - below) / (upTo - below) : 1);
}

/** How far a counter went; after a restart, how far it is. @param {number} before @param {number} after */
export const grown = (before, after) => (after < before || Number.isNaN(before) ? after : after - before);
