/** `tenantd logs` reads what pino and the tagged console write. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { Console } from "node:console";
import { createWriteStream } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import pino from "pino";

import { connect } from "@tenantd/client";
import { tagConsole, tenantMixin } from "@tenantd/client/logs";
import { binary, startSidecar } from "./sidecar.mjs";

/** The lines that the command passes on. */
function chosen(path, ...args) {
  const out = execFileSync(binary, ["logs", path, ...args], { encoding: "utf8" });
  return out.trim().split("\n").filter((line) => line);
}

test("the command line filters pino's lines and the console's", async (t) => {
  const { address } = await startSidecar(t);
  const folder = await mkdtemp(join(tmpdir(), "tenantd-logs-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, "agent.log");
  const file = createWriteStream(path);
  const logger = pino({ mixin: tenantMixin }, file);
  const own = new Console(file);
  const end = tagConsole({ console: own, json: true });
  const td = connect({ address });
  t.after(() => td.close());
  await td.withSession({ sessionId: "log-a", tenant: "acme", agent: "desk" }, () => {
    logger.info("hello acme");
    own.warn("slow: %d s", 3);
  });
  await td.withSession({ sessionId: "log-b", tenant: "small" }, () => {
    logger.error(new Error("two\nlines"), "broke");
    own.log("fine");
  });
  logger.info("outside");
  end();
  file.end();
  await once(file, "finish");

  const messages = (...args) =>
    chosen(path, ...args).map((line) => JSON.parse(line)).map((line) => line.msg ?? line.message);
  assert.deepEqual(messages("--tenant", "acme"), ["hello acme", "slow: 3 s"]);
  assert.deepEqual(messages("--tenant", "small"), ["broke", "fine"]);
  assert.deepEqual(messages("--session", "log-a", "--level", "warn"), ["slow: 3 s"]);
  assert.deepEqual(messages("--agent", "desk"), ["hello acme", "slow: 3 s"]);
  assert.deepEqual(messages("--level", "error"), ["broke"]);
  assert.equal(messages().length, 5);
  const [line] = chosen(path, "--tenant", "acme", "--human");
  assert.match(line, /^\d{4}-\d\d-\d\dT[\d:.]+Z INFO tenant=acme session_id=log-a agent_name=desk hello acme$/);
});
