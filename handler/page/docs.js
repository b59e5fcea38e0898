// The OpenAPI document (`/schema`) as a page: every path, what it takes and answers, and a form to ask it.

import { byId, fill, h, milliseconds } from "./dom.js";

const METHODS = ["get", "post", "put", "delete", "patch", "head", "options"];
const DEPTH_MAX = 6;

/** @typedef {any} Schema a JSON Schema, or a part of the document */

const content = byId("content", HTMLElement);
let key = "";

/** @type {Schema} */
let document_ = {};

/** Follow `$ref`s within the document. @param {Schema} given @returns {Schema} */
function followed(given) {
	let found = given;
	for (let n = 0; found?.$ref && n < DEPTH_MAX; n += 1) found = String(found.$ref).replace(/^#\//, "").split("/").reduce((at, part) => at?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], document_);
	return found ?? {};
}

/** A schema's type in a few words. @param {Schema} given @returns {string} */
function kind(given) {
	if (given.$ref) return String(given.$ref).split("/").at(-1) ?? "";
	const several = given.anyOf ?? given.oneOf;
	if (several) return several.map(kind).join(" or ");
	if (given.const !== undefined) return JSON.stringify(given.const);
	if (given.enum) return given.enum.map((/** @type {unknown} */ value) => JSON.stringify(value)).join(" or ");
	if (given.type === "array") return `list of ${kind(given.items ?? {})}`;
	const bounds = [given.minimum !== undefined && `≥ ${given.minimum}`, given.exclusiveMinimum !== undefined && `> ${given.exclusiveMinimum}`, given.maximum !== undefined && `≤ ${given.maximum}`, given.minLength && "not empty"].filter(Boolean);
	return [Array.isArray(given.type) ? given.type.join(" or ") : (given.type ?? "anything"), ...bounds].join(", ");
}

/** The members of an object, those of its members within. @param {Schema} given @param {number} depth @returns {HTMLElement | null} */
function members(given, depth = 0) {
	const schema = followed(given);
	if (depth > DEPTH_MAX) return null;
	const several = schema.anyOf ?? schema.oneOf;
	if (several) {
		const shown = several.map((/** @type {Schema} */ one) => members(one, depth + 1)).filter(Boolean);
		return shown.length ? h("div", { class: "stack tight" }, ...shown.flatMap((/** @type {HTMLElement} */ one, /** @type {number} */ n) => [n > 0 && h("p", { class: "hint" }, "or"), one])) : null;
	}
	if (schema.type === "array") return members(schema.items ?? {}, depth + 1);
	const properties = Object.entries(schema.properties ?? {});
	if (!properties.length) return null;
	return h(
		"dl",
		{ class: "members" },
		...properties.map(([name, value]) => {
			const own = followed(value);
			const inner = depth < 3 ? members(value, depth + 1) : null;
			return h(
				"div",
				{},
				h("dt", {}, h("code", {}, name), " ", h("span", { class: "hint" }, kind(value), schema.required?.includes(name) ? ", required" : "")),
				h("dd", {}, own.description ?? "", inner && h("details", {}, h("summary", {}, "members"), inner)),
			);
		}),
	);
}

/** A body to begin with. @param {Schema} given @param {number} depth @returns {unknown} */
function sample(given, depth = 0) {
	const schema = followed(given);
	if (schema.example !== undefined) return schema.example;
	if (schema.examples?.length) return schema.examples[0];
	if (schema.default !== undefined && schema.default !== null) return schema.default;
	const several = schema.anyOf ?? schema.oneOf;
	if (several) return sample(several[0], depth + 1);
	if (schema.const !== undefined) return schema.const;
	if (schema.enum) return schema.enum[0];
	if (schema.type === "object" || schema.properties) {
		if (depth > DEPTH_MAX) return {};
		const needed = Object.keys(schema.properties ?? {}).filter((name) => schema.required?.includes(name));
		const names = needed.length ? needed : Object.keys(schema.properties ?? {}).slice(0, 1);
		return Object.fromEntries(names.map((name) => [name, sample(schema.properties[name], depth + 1)]));
	}
	if (schema.type === "array") return [sample(schema.items ?? {}, depth + 1)];
	return { string: "…", integer: 1, number: 0.5, boolean: true }[/** @type {"string"} */ (schema.type)] ?? null;
}

/** @param {string} path @param {string} method @param {Schema} operation @param {Schema[]} shared */
function operationCard(path, method, operation, shared) {
	const parameters = [...shared, ...(operation.parameters ?? [])].map(followed);
	const body = operation.requestBody ? followed(operation.requestBody) : null;
	const media = Object.entries(body?.content ?? {});
	return h(
		"details",
		{ class: "card operation", id: operation.operationId ?? `${method}${path}` },
		h("summary", {}, h("span", { class: `method ${method}` }, method.toUpperCase()), " ", h("code", {}, path), " ", h("span", { class: "hint" }, operation.summary ?? "")),
		operation.description && h("p", {}, operation.description),
		parameters.length > 0 && h("h2", {}, "Parameters"),
		parameters.length > 0 &&
			h(
				"dl",
				{ class: "members" },
				...parameters.map((one) => h("div", {}, h("dt", {}, h("code", {}, one.name), " ", h("span", { class: "hint" }, `${one.in}, ${kind(one.schema ?? {})}${one.required ? ", required" : ""}`)), h("dd", {}, one.description ?? ""))),
			),
		...media.flatMap(([type, { schema = {} }]) => [h("h2", {}, "Body, ", h("code", {}, type)), body.description && h("p", { class: "hint" }, body.description), members(schema) ?? h("p", { class: "hint" }, kind(schema))]),
		h("h2", {}, "Answers"),
		...Object.entries(operation.responses ?? {}).map(([code, given]) => {
			const answer = followed(given);
			const [type, shape] = /** @type {[string, Schema]} */ (Object.entries(answer.content ?? {})[0] ?? ["", {}]);
			const headers = Object.entries(answer.headers ?? {});
			return h(
				"details",
				{ class: "code-answer" },
				h("summary", {}, h("code", { class: code.startsWith("2") ? "good" : "bad" }, code), " ", answer.description ?? "", " ", h("span", { class: "hint" }, type)),
				shape.schema && members(shape.schema),
				headers.length > 0 && h("dl", { class: "members" }, ...headers.map(([name, header]) => h("div", {}, h("dt", {}, h("code", {}, name), h("span", { class: "hint" }, " header")), h("dd", {}, followed(header).description ?? "")))),
			);
		}),
		askForm(path, method, parameters, media),
	);
}

/**
 * @param {string} path
 * @param {string} method
 * @param {Schema[]} parameters
 * @param {[string, Schema][]} media
 */
function askForm(path, method, parameters, media) {
	const name = (/** @type {string} */ part) => `${method}${path}-${part}`.replace(/\W+/g, "-");
	const inputs = parameters.map((one) => ({ ...one, input: h("input", { type: "text", id: name(one.name), spellcheck: "false", autocomplete: "off" }) }));
	const type = h("select", { id: name("type") }, ...media.map(([one]) => h("option", {}, one)));
	const body = h("textarea", { id: name("body"), rows: 5, spellcheck: "false", class: "code" });
	const begin = () => {
		const schema = media[type.selectedIndex]?.[1] ?? {};
		const example = schema.example ?? followed(Object.values(schema.examples ?? {})[0])?.value ?? sample(schema.schema ?? {});
		body.value = typeof example === "string" ? example : JSON.stringify(example, null, 2);
	};
	type.addEventListener("change", begin);
	if (media.length) begin();
	const answer = h("div", { class: "stack tight", "aria-live": "polite" });
	const send = h("button", { type: "button", class: "primary", onclick: () => void ask() }, `Send ${method.toUpperCase()} ${path}`);

	async function ask() {
		const headers = new Headers(media.length ? { "content-type": type.value } : {});
		if (key) headers.set("authorization", `Bearer ${key}`);
		let to = path;
		const query = new URLSearchParams();
		for (const one of inputs) {
			const value = one.input.value;
			if (one.in === "path") to = to.replace(`{${one.name}}`, value.split("/").map(encodeURIComponent).join("/"));
			else if (!value) continue;
			else if (one.in === "query") query.set(one.name, value);
			else if (one.in === "header") headers.set(one.name, value);
		}
		const began = performance.now();
		send.disabled = true;
		try {
			const found = query.size ? `${to}?${query}` : to;
			const response = await fetch(found, { method: method.toUpperCase(), headers, body: media.length ? body.value : undefined, cache: "no-store", credentials: "omit" });
			const text = await response.text();
			let shown = text.slice(0, 200_000);
			try {
				shown = JSON.stringify(JSON.parse(text), null, 2);
			} catch {
				// No JSON: shown as it came.
			}
			fill(
				answer,
				h("p", {}, h("code", { class: response.ok ? "good" : "bad" }, String(response.status)), ` ${response.statusText} in ${milliseconds((performance.now() - began) / 1000)}`),
				h("details", {}, h("summary", {}, "headers"), h("pre", { tabindex: "0", "aria-label": "Headers of the answer" }, [...response.headers].map(([one, value]) => `${one}: ${value}`).join("\n"))),
				h("pre", { tabindex: "0", "aria-label": "Body of the answer", class: "answer" }, shown),
			);
		} catch {
			fill(answer, h("p", { class: "notice bad" }, "Nobody answered, or the request cannot be sent so. Is the gateway stopped?"));
		}
		send.disabled = false;
	}

	return h(
		"div",
		{ class: "stack tight ask" },
		h("h2", {}, "Ask it"),
		...inputs.map((one) => h("div", { class: "field" }, h("label", { for: one.input.id }, one.name), one.input)),
		media.length > 1 && h("div", { class: "field" }, h("label", { for: type.id }, "content-type"), type),
		media.length > 0 && h("label", { for: body.id }, "Body"),
		media.length > 0 && body,
		h("div", {}, send),
		answer,
	);
}

async function show() {
	let response;
	try {
		response = await fetch("/schema", { credentials: "omit" });
	} catch {
		response = null;
	}
	if (!response?.ok) {
		content.append(h("p", { class: "notice bad", role: "alert" }, response ? "This gateway does not give its OpenAPI document (SCHEMA_ENABLED=0)." : "The gateway does not answer. It may be stopped or starting; reload this page."));
		return;
	}
	document_ = await response.json();
	const input = h("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false", oninput: () => (key = input.value.trim()) });
	content.append(
		h("p", {}, document_.info?.description ?? ""),
		h("div", { class: "card" }, h("div", { class: "field" }, h("label", { for: "key" }, "Key"), input), h("p", { class: "hint" }, "Sent as Authorization: Bearer with what you ask below, where a gateway asks for one.")),
		...Object.entries(document_.paths ?? {}).flatMap(([path, item]) =>
			METHODS.filter((method) => item[method]).map((method) => operationCard(path, method, item[method], item.parameters ?? [])),
		),
	);
	const first = content.querySelector("details.operation");
	if (first instanceof HTMLDetailsElement) first.open = true;
}

await show();
