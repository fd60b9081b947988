import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";

import { create, toBinary } from "@bufbuild/protobuf";
import { anyPack, durationFromMs } from "@bufbuild/protobuf/wkt";
import { Metadata, status } from "@grpc/grpc-js";

import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../dist/gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../dist/gen/google/rpc/status_pb.js";
import * as tenantd from "@tenantd/client";
import { SessionConfigSchema } from "@tenantd/client/proto";
import { hideCredentials } from "../dist/redact.js";
import { contract } from "./sidecar.mjs";

const { errorClasses, Reason, SidecarUnavailableError, TenantdError, toTenantdError } = tenantd;
const reasons = await contract("reasons.json");

/** What grpc-js throws for a status with these details. */
function serviceError(code, message, ...details) {
  const metadata = new Metadata();
  if (details.length > 0) {
    const bytes = toBinary(StatusSchema, create(StatusSchema, { code, message, details }));
    metadata.set("grpc-status-details-bin", Buffer.from(bytes));
  }
  return Object.assign(new Error(`${code}: ${message}`), { code, details: message, metadata });
}

function info(reason, metadata = {}, domain = "tenantd.dev") {
  return anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason, domain, metadata }));
}

test("every reason of the contract has its number and an exported class of its own", () => {
  for (const { reason, number } of reasons) {
    assert.equal(Reason[reason], number, reason);
    const camel = reason.toLowerCase().replace(/(^|_)(.)/g, (_, __, letter) => letter.toUpperCase());
    assert.equal(errorClasses[reason], tenantd[`${camel}Error`], reason);
  }
  assert.equal(new Set(Object.values(errorClasses)).size, reasons.length);
  const numbers = Object.values(Reason).filter((value) => typeof value === "number" && value !== 0);
  assert.deepEqual(numbers, reasons.map(({ number }) => number));
});

test("every reason of the contract is decoded with its code and disposition", () => {
  for (const { reason, code, disposition } of reasons) {
    const error = toTenantdError(serviceError(status[code], "no", info(reason, { disposition })), "unix:/x");
    assert.equal(error.constructor, errorClasses[reason]);
    assert.ok(error instanceof TenantdError);
    assert.equal(error.name, errorClasses[reason].name);
    assert.equal(error.reason, reason);
    assert.equal(error.code, status[code]);
    assert.equal(error.disposition, disposition);
    assert.equal(error.detail, "no");
    assert.ok(error.message.startsWith(`${reason}: no`));
  }
});

test("figures, outcome, retry time and fields are decoded", () => {
  const error = toTenantdError(
    serviceError(
      status.RESOURCE_EXHAUSTED,
      "full",
      info("TENANT_AT_CAP", { tenant: "acme", sessionId: "s", limit: "10", current: "11", outcome: "success" }),
      anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: durationFromMs(1_500) })),
      anyPack(BadRequestSchema, create(BadRequestSchema, { fieldViolations: [{ field: "ttl", description: "low" }] })),
    ),
    "unix:/x",
  );
  const { tenant, sessionId, limit, current, outcome, retryAfterMs, fields } = error;
  assert.deepEqual(
    { tenant, sessionId, limit, current, outcome, retryAfterMs, fields },
    {
      tenant: "acme",
      sessionId: "s",
      limit: 10,
      current: 11,
      outcome: "success",
      retryAfterMs: 1_500,
      fields: [{ field: "ttl", description: "low" }],
    },
  );
});

test("a reason of a newer sidecar is a plain TenantdError that keeps its name", () => {
  for (const reason of ["MOON_PHASE", "constructor"]) {
    const error = toTenantdError(serviceError(status.FAILED_PRECONDITION, "no", info(reason)), "unix:/x");
    assert.equal(error.constructor, TenantdError);
    assert.equal(error.reason, reason);
  }
});

test("a reason of another domain, and broken details, are not taken for ours", () => {
  const foreign = info("TENANT_AT_CAP", {}, "example.com");
  assert.equal(toTenantdError(serviceError(status.RESOURCE_EXHAUSTED, "no", foreign), "unix:/x").reason, "");
  const broken = serviceError(status.INTERNAL, "no");
  broken.metadata.set("grpc-status-details-bin", Buffer.from([0xff, 0xff]));
  const error = toTenantdError(broken, "unix:/x");
  assert.ok(error instanceof SidecarUnavailableError, "nobody knows what was decided");
  assert.equal(error.code, status.INTERNAL);
  const other = toTenantdError(serviceError(status.UNAUTHENTICATED, "no"), "unix:/x");
  assert.equal(other.constructor, TenantdError);
});

test("no connection, a broken one and a passed deadline are SidecarUnavailableError, with the address", () => {
  for (const code of [status.UNAVAILABLE, status.DEADLINE_EXCEEDED, status.INTERNAL, status.UNKNOWN]) {
    const error = toTenantdError(serviceError(code, "gone"), "unix:/run/x.sock");
    assert.ok(error instanceof SidecarUnavailableError);
    assert.equal(error.address, "unix:/run/x.sock");
    assert.match(error.message, /unix:\/run\/x\.sock/);
  }
});

test("a client without a sidecar fails promptly with SidecarUnavailableError", async () => {
  const client = new tenantd.TenantdRpc({ address: "/nonexistent/tenantd.sock" });
  const started = Date.now();
  await assert.rejects(client.acquire({ tenant: "acme" }), SidecarUnavailableError);
  assert.ok(Date.now() - started < 2_500);
  await assert.rejects(client.publishEvents([]), SidecarUnavailableError);
  await assert.rejects(drain(client.watch()), SidecarUnavailableError);
  await assert.rejects(drain(client.keepAlive("w")), SidecarUnavailableError);
  client.close();
});

async function drain(stream) {
  for await (const message of stream) void message;
}

test("credentials stay out of console.log and JSON, and can be read by name", () => {
  const config = create(SessionConfigSchema, {
    providers: { llm: { provider: "openai", credentials: { api_key: { value: "sk-secret" } } } },
  });
  hideCredentials(config);
  assert.equal(config.providers.llm.credentials.api_key.value, "sk-secret");
  assert.doesNotMatch(inspect(config, { depth: null }), /sk-secret/);
  assert.doesNotMatch(JSON.stringify(config), /sk-secret/);
});
