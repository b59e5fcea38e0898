// Gateways for the tests: real processes on loopback, each with settings of its own, always ended.
// However slow the machine is, no query of theirs is late.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
export const PYTHON = process.env.PYTHON ?? [".venv-dev", ".venv"].map((name) => path.join(ROOT, name, "bin/python")).find(existsSync) ?? "python3";
const START_MS = 90_000;

export class Gateway {
	/** @param {Record<string, string>} settings @param {number} [port] @param {string} [until] the path that answers 200 once it is up */
	static async start(settings = {}, port = 0, until = "/health/ready") {
		const gateway = new Gateway(port || (await freePort()));
		await gateway.#run(settings, until);
		return gateway;
	}

	/** @param {number} port */
	constructor(port) {
		this.port = port;
		this.url = `http://127.0.0.1:${port}`;
		this.log = "";
	}

	/** @param {Record<string, string>} settings @param {string} until */
	async #run(settings, until) {
		const { PATH, HOME, LANG, TMPDIR } = process.env;
		this.process = spawn(PYTHON, ["-m", "handler", "serve"], {
			cwd: ROOT,
			env: { PATH, HOME, LANG, TMPDIR, PORT: String(this.port), MODEL_PATH: path.join(ROOT, "models/quantized"), REQUEST_TIMEOUT_MS: "60000", ...settings },
			stdio: ["ignore", "pipe", "pipe"],
		});
		this.process.stdout?.on("data", (bytes) => (this.log += bytes));
		this.process.stderr?.on("data", (bytes) => (this.log += bytes));
		for (const end = Date.now() + START_MS; ; await new Promise((resolve) => setTimeout(resolve, 50))) {
			if (await fetch(this.url + until).then((answer) => answer.ok, () => false)) return;
			if (this.process.exitCode !== null || Date.now() > end) {
				await this.stop();
				throw new Error(`no gateway on ${this.url}:\n${this.log}`);
			}
		}
	}

	async stop() {
		if (!this.process || this.process.exitCode !== null || this.process.signalCode !== null) return;
		const ended = once(this.process, "exit");
		this.process.kill("SIGKILL");
		await ended;
	}

	/** One query, explained. @param {object} ask */
	async ask(ask) {
		const answer = await fetch(`${this.url}/v1/query-classify`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ ...ask, explain: true }) });
		return answer.json();
	}

	/** Many queries, a line each, explained. @param {object[]} asks @returns {Promise<any[]>} */
	async askAll(asks) {
		const answer = await fetch(`${this.url}/v1/query-classify`, {
			method: "POST",
			headers: { "content-type": "application/x-ndjson" },
			body: asks.map((ask) => JSON.stringify({ ...ask, explain: true }) + "\n").join(""),
		});
		return (await answer.text()).trimEnd().split("\n").map((line) => JSON.parse(line));
	}
}

export function freePort() {
	return new Promise((resolve) => {
		const probe = createServer();
		probe.listen(0, "127.0.0.1", () => {
			const { port } = /** @type {import("node:net").AddressInfo} */ (probe.address());
			probe.close(() => resolve(port));
		});
	});
}
