// Now: `/metrics` and `/health/deep`, drawn as they change. For whoever is on call and has no Grafana at hand.

import { call } from "./api.js";
import { chart } from "./chart.js";
import { fill, h, milliseconds, percent, spoken, whole } from "./dom.js";
import { between, grown, quantile, Scrape, without } from "./exposition.js";
import { facts, refresh, words } from "./facts.js";

const EVERY_MS = 2000;
const KEPT = 150; // five minutes
// Over how many scrapes a rate or a percentile is taken: 10 s.
const SPAN = 5;
const ALERTS = "/api/v1/alerts";

/** @typedef {{at: number, rate: number, failed: number, hitP50: number, hitP99: number, missP50: number, missP99: number, hits: number, queue: number, fast: number}} Moment */

/**
 * How Redis fares, in two words or so; of a cluster, how many of its servers are well.
 * @param {{l2_healthy: boolean, l2?: {shards: {trouble: string | null}[]}}} cache
 */
function redisState(cache) {
	if (cache.l2_healthy) return "healthy";
	const shards = cache.l2?.shards ?? [];
	const up = shards.filter((shard) => shard.trouble === null).length;
	return up ? `${up} of ${shards.length} shards` : "not usable";
}

/** @param {HTMLElement} panel */
export function showNow(panel) {
	/** @type {Scrape[]} */
	let scrapes = [];
	/** @type {Moment[]} */
	let moments = [];
	let timer = 0;
	let turn = 0;
	const prometheus = document.querySelector('meta[name="prometheus-url"]')?.getAttribute("content") ?? "";

	const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
	const tiles = h("div", { class: "tiles", id: "tiles" });
	const alerts = h("div", { class: "card", hidden: !prometheus });
	const rate = panelOf("Queries a second");
	const miss = panelOf("Time, the model asked", "Promised: 99% within 100 ms.");
	const hit = panelOf("Time, answered by a cache", "Promised: 99% within 10 ms.");
	const hits = panelOf("Answered by a cache");
	const queue = panelOf("Waiting for the model");
	const fast = panelOf("Sent fast");
	const tasks = h("div", { class: "card" });
	const report = h("div", { class: "card" });
	fill(
		panel,
		h(
			"div",
			{ class: "stack" },
			trouble,
			alerts,
			tiles,
			h("div", { class: "three" }, rate.element, miss.element, hit.element, hits.element, queue.element, fast.element),
			h("div", { class: "two even top-aligned" }, tasks, report),
		),
	);

	/** @param {string} title @param {string} [promise] */
	function panelOf(title, promise) {
		const drawn = chart(title, 130);
		return {
			element: h("div", { class: "card" }, h("h2", {}, title), drawn.element, promise && h("p", { class: "hint" }, promise)),
			/**
			 * @param {import("./chart.js").Series[]} series
			 * @param {(value: number) => string} yWords
			 * @param {number} yMax
			 */
			show(series, yWords, yMax) {
				const end = moments.at(-1)?.at ?? 0;
				const begin = Math.min(Math.max(moments[0]?.at ?? 0, end - (KEPT * EVERY_MS) / 1000), end - 20);
				const words = series.map((one) => `${one.name || title} ${yWords(one.points.at(-1)?.[1] ?? NaN)}`).join(", ");
				drawn.show({ series, x: [begin, end], yMax, yWords, xTicks: [begin, end], xWords: (at) => ago(end - at), filled: series.length === 1 }, `${title}: ${words}`);
			},
		};
	}

	async function look() {
		try {
			const text = await (await call("/metrics", { as: "operator" })).text();
			const scrape = new Scrape(text, performance.now() / 1000);
			scrapes = [...scrapes, scrape].slice(-SPAN - 1);
			if (scrapes.length > 1) moments = [...moments, moment(scrapes[0], scrape)].slice(-KEPT);
			if (turn % 3 === 0) await refresh();
			trouble.hidden = true;
			draw(scrape);
		} catch (error) {
			trouble.hidden = false;
			trouble.textContent = words(error);
			scrapes = [];
		}
		if (prometheus && turn % 5 === 0) await lookForAlerts();
		turn += 1;
	}

	/** @param {Scrape} from @param {Scrape} to @returns {Moment} */
	function moment(from, to) {
		const seconds = to.at - from.at;
		const delta = (/** @type {string} */ name, /** @type {(labels: Record<string, string>) => boolean} */ only = () => true) => grown(from.sum(name, only), to.sum(name, only));
		const all = between(from.buckets("request_latency_seconds"), to.buckets("request_latency_seconds"));
		const hit = between(from.buckets("cache_hit_latency_seconds"), to.buckets("cache_hit_latency_seconds"));
		const missed = without(all, hit);
		const hitCount = delta("cache_hits_total");
		const missCount = delta("cache_misses_total");
		return {
			at: to.at,
			rate: delta("requests_total", (labels) => labels.status === "success") / seconds,
			failed: (delta("requests_total", (labels) => labels.status !== "success") || 0) / seconds,
			hitP50: quantile(0.5, hit),
			hitP99: quantile(0.99, hit),
			missP50: quantile(0.5, missed),
			missP99: quantile(0.99, missed),
			hits: hitCount + missCount > 0 ? hitCount / (hitCount + missCount) : NaN,
			queue: to.sum("batch_queue_size"),
			fast: delta("classifications_total", (labels) => labels.label === "0") / delta("classifications_total"),
		};
	}

	/** @param {Scrape} scrape */
	function draw(scrape) {
		const last = moments.at(-1);
		const cache = facts.deep?.checks?.cache;
		const loaded = scrape.sum("model_loaded") === 1;
		fill(
			tiles,
			tile("Model", loaded ? facts.version || "loaded" : "none loaded", loaded),
			tile("Queries a second", last ? last.rate.toFixed(last.rate < 10 ? 1 : 0) : "…"),
			tile("P99, model asked", last ? milliseconds(last.missP99) : "…", !(last && last.missP99 > 0.1)),
			tile("P99, cache hits", last ? milliseconds(last.hitP99) : "…", !(last && last.hitP99 > 0.01)),
			tile("Hit rate", last ? percent(last.hits) : "…"),
			tile("In the queue", String(scrape.sum("batch_queue_size") || 0), (scrape.sum("batch_queue_fullness") || 0) < 0.8),
			tile("Sent fast", last ? percent(last.fast) : "…"),
			tile("Redis", !cache?.l2_enabled ? "not used" : redisState(cache), !cache?.l2_enabled || cache.l2_healthy),
		);
		const line = (/** @type {string} */ name, /** @type {string} */ kind, /** @type {keyof Moment} */ key) => ({
			name,
			kind,
			points: moments.map((each) => /** @type {[number, number]} */ ([each.at, each[key]])),
		});
		const ms = (/** @type {number} */ value) => milliseconds(value);
		const count = (/** @type {number} */ value) => (value < 10 ? String(Number(value.toFixed(1))) : whole(Math.round(value)));
		rate.show([line("answered", "cool", "rate"), line("failed", "bad", "failed")], count, 1);
		miss.show([line("P50", "cool", "missP50"), line("P99", "warm", "missP99")], ms, 0.001);
		hit.show([line("P50", "cool", "hitP50"), line("P99", "warm", "hitP99")], ms, 0.0005);
		hits.show([line("", "cool", "hits")], (value) => percent(value), 1);
		queue.show([line("", "warm", "queue")], count, 4);
		fast.show([line("", "fast", "fast")], (value) => percent(value), 1);
		drawTasks(scrape);
		drawReport();
	}

	/** @param {Scrape} scrape */
	function drawTasks(scrape) {
		const live = scrape.by("classifications_total", "task");
		const trained = scrape.by("training_share", "task");
		const total = Object.values(live).reduce((sum, count) => sum + count, 0);
		const names = [...new Set([...Object.keys(live), ...Object.keys(trained)])].sort((a, b) => (live[b] ?? 0) - (live[a] ?? 0) || (a < b ? -1 : 1));
		fill(
			tasks,
			h("h2", {}, "Tasks since the start, against the training mix"),
			total > 0
				? h(
						"ul",
						{ class: "bars mix" },
						...names.map((task) => {
							const share = (live[task] ?? 0) / total;
							const bar = h("span", { class: "bar" });
							bar.style.setProperty("--share", String(share));
							const mark = task in trained ? h("span", { class: "mark" }) : null;
							mark?.style.setProperty("--at", String(trained[task]));
							return h("li", { class: (facts.needs[task] ?? 1) < 0.5 ? "fast" : "slow" }, h("span", { class: "what" }, spoken(task)), h("span", { class: "track" }, bar, mark), h("span", { class: "number" }, percent(share, 1)));
						}),
					)
				: h("p", { class: "hint" }, "No query has been answered since the start."),
			total > 0 && h("p", { class: "hint" }, "The upright mark is the task's share in what the model was trained on, where its manifest says so."),
		);
	}

	function drawReport() {
		const deep = facts.deep;
		if (!deep) return;
		const { model, cache, policy, batch_processor: batch } = deep.checks;
		/** @type {[string, string][]} */
		const rows = [
			["Status", deep.status],
			["Gateway", `${deep.version}, up ${duration(deep.uptime_s)}`],
			["Model", model.loaded ? `${model.version}, ${model.tasks.length} tasks, files ${model.files}` : `none: ${model.error ?? "not loaded yet"}`],
			["Model's folder", model.path],
			["Tiers in force", facts.tiers.map((tier) => `${tier.name} up to need ${tier.need_max.toFixed(2)}`).join(", ")],
			["Policy", policy?.file ? `${policy.file}, version ${policy.version}` : "the model's own"],
			["L1", cache.l1_enabled ? `${whole(cache.l1_size)} of ${whole(cache.l1_max_size)} entries` : "off"],
			["Redis", cache.l2_enabled ? `${redisState(cache)}${cache.l2?.address ? `, ${cache.l2.address}` : ""}${cache.l2?.trouble ? `: ${cache.l2.trouble}` : ""}` : "not set (REDIS_URL)"],
			["Batches", `${batch.running ? "running" : "stopped"}, ${batch.lanes} lanes, ${batch.average_batch_size} queries on average`],
		];
		fill(
			report,
			policy?.error && h("p", { class: "notice bad" }, `The policy file is not in force: ${policy.error}`),
			h("div", { class: "row spread" }, h("h2", {}, "Deep report"), h("span", { class: `tag ${deep.status === "healthy" ? "fast" : "trouble"}` }, deep.status)),
			h("dl", { class: "facts", id: "report" }, ...rows.slice(1).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
		);
	}

	async function lookForAlerts() {
		try {
			const response = await fetch(prometheus + ALERTS, { cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer" });
			const { data } = await response.json();
			const firing = data.alerts.filter((/** @type {any} */ alert) => alert.state === "firing" && alert.labels.alertname !== "Watchdog");
			fill(
				alerts,
				h("h2", {}, firing.length ? `${firing.length} ${firing.length === 1 ? "alert fires" : "alerts fire"}` : "No alert fires"),
				firing.length > 0 &&
					h(
						"ul",
						{ class: "alerts" },
						...firing.map((/** @type {any} */ alert) =>
							h("li", {}, h("span", { class: `tag ${alert.labels.severity === "critical" ? "trouble" : "warn"}` }, String(alert.labels.severity ?? "")), " ", h("b", {}, String(alert.labels.alertname)), " ", String(alert.annotations?.description ?? alert.annotations?.summary ?? "")),
						),
					),
			);
			alerts.classList.toggle("firing", firing.length > 0);
		} catch {
			fill(alerts, h("h2", {}, "Alerts"), h("p", { class: "hint" }, "Prometheus (PROMETHEUS_URL) does not answer this browser."));
		}
	}

	return {
		open() {
			clearInterval(timer);
			turn = 0;
			timer = window.setInterval(() => document.visibilityState === "visible" && void look(), EVERY_MS);
			void look();
		},
		close() {
			clearInterval(timer);
			scrapes = [];
		},
	};
}

/** @param {string} name @param {string} value @param {boolean} [good] */
const tile = (name, value, good = true) => h("dl", { class: good ? "tile" : "tile off" }, h("dt", {}, name), h("dd", {}, value));

/** @param {number} seconds */
const ago = (seconds) => (seconds < 1 ? "now" : seconds < 90 ? `${Math.round(seconds)} s ago` : `${Math.round(seconds / 60)} min ago`);

/** @param {number} seconds */
function duration(seconds) {
	if (seconds < 120) return `${Math.round(seconds)} s`;
	if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
	return seconds < 172_800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86_400).toFixed(1)} days`;
}
