import assert from "node:assert/strict";
import { Console } from "node:console";
import { test } from "node:test";
import { PassThrough } from "node:stream";

import { context, propagation, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { InMemorySpanExporter, NodeTracerProvider, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-node";
import pino from "pino";

import { connect, runBound } from "@tenantd/client";
import { tagConsole, tenantMixin } from "@tenantd/client/logs";
import { startSidecar } from "./sidecar.mjs";

const binding = { tenant: "acme", sessionId: "s", agentName: "desk" };

function sink() {
  const stream = new PassThrough();
  let text = "";
  stream.setEncoding("utf8").on("data", (part) => (text += part));
  return { stream, text: () => text };
}

test("pino lines carry the session inside one, and nothing outside", () => {
  const { stream, text } = sink();
  const logger = pino({ mixin: tenantMixin }, stream);
  runBound(binding, () => logger.info("in"));
  logger.info("out");
  const [inside, outside] = text().trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual([inside.tenant, inside.session_id, inside.agent_name], ["acme", "s", "desk"]);
  assert.equal("tenant" in outside, false);
});

test("console lines carry the session, as text and as JSON, until it is ended", () => {
  const { stream, text } = sink();
  const target = new Console(stream);
  const end = tagConsole({ console: target });
  runBound(binding, () => target.log("a %s", "b"));
  target.log("c");
  end();
  const endJson = tagConsole({ console: target, json: true });
  runBound(binding, () => target.warn("d"));
  endJson();
  runBound(binding, () => target.log("e"));
  const lines = text().trim().split("\n");
  assert.deepEqual(lines.slice(0, 2), ["tenant=acme session_id=s agent_name=desk a b", "c"]);
  const { level, message, tenant } = JSON.parse(lines[2]);
  assert.deepEqual([level, message, tenant, lines[3]], ["warning", "d", "acme", "e"]);
});

test("spans and baggage carry the tenant where OpenTelemetry is there", async (t) => {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  const exporter = new InMemorySpanExporter();
  const provider = new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
  trace.setGlobalTracerProvider(provider);
  const { address } = await startSidecar(t);
  const td = connect({ address });
  await trace.getTracer("t").startActiveSpan("call", async (span) => {
    await td.withSession({ sessionId: "s", tenant: "acme", agent: "desk" }, () => {
      assert.equal(propagation.getBaggage(context.active()).getEntry("tenant").value, "acme");
    });
    assert.equal(propagation.getBaggage(context.active()), undefined);
    span.end();
  });
  const [{ attributes }] = exporter.getFinishedSpans();
  assert.deepEqual(attributes, { tenant: "acme", session_id: "s", agent_name: "desk" });
  await td.close();
});
