import { EventEmitter } from "node:events";
import { randomUUID } from "node:crypto";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { JsonObject } from "@bufbuild/protobuf";

import type { Tenantd } from "./client.js";
import { NOTHING, toConfig, type Config, type Providers } from "./config.js";
import { runBound, type Binding, type Frame } from "./context.js";
import { SessionEndedError, SessionUnknownError, toTenantdError } from "./errors.js";
import { Severity } from "./gen/tenantd/v1/event_pb.js";
import { Outcome } from "./gen/tenantd/v1/session_pb.js";
import type { SessionConfig } from "./gen/tenantd/v1/provider_pb.js";
import type { Link } from "./link.js";
import type { ConfigChanged, Notice, Resumed, Revoked, Suspended } from "./notices.js";
import { tagSpan, withBaggage } from "./otel.js";
import type { AcquireRequest } from "./rpc.js";

/** A job as dispatchers describe it; LiveKit's is one. */
export interface JobLike {
  /** The session's id. */
  readonly id?: string;
  /** Metadata of the job, as received. */
  readonly metadata?: string;
  /** Named agent. */
  readonly agentName?: string;
  /** Its room. */
  readonly room?: { readonly metadata?: string } | undefined;
}

/** Whose session, and how long to try. */
export interface SessionOptions {
  /** The dispatcher's job: stands for `sessionId`, `jobMetadata`, `roomMetadata` and `agent`. */
  job?: JobLike;
  /** Unique over all tenants; made here when absent. The same id gets the same slot. */
  sessionId?: string;
  /** Metadata of the job, as received: its key `tenant` names the tenant. */
  jobMetadata?: string;
  /** Metadata of the room, as received; the job's wins. */
  roomMetadata?: string;
  /** The tenant, where no metadata names it; a different one is refused. */
  tenant?: string;
  /** Named agent. */
  agent?: string;
  /** How long one renewal carries the session; the tenant's when absent (60,000). */
  ttlMs?: number;
  /** How long refusals that say `retry_later` are tried again, at the times that they name; 0 when absent. */
  retryForMs?: number;
  /** Stops an acquire that is under way; later, the session ends as `cancelled`. */
  signal?: AbortSignal;
}

/** How a session ends. */
export type OutcomeName = "success" | "failure" | "cancelled";

/** What failed. */
export interface FailureOptions {
  /** Provider slot, for example `llm`. */
  slot?: string;
  /** Kind, for example `timeout`: 1-64 characters of `[A-Za-z0-9_.-]`. */
  kind?: string;
  /** For people. Must not hold secrets. */
  message?: string;
}

/** Events of a session. */
export interface SessionEvents {
  /** Its slot is gone: stop it. `session.signal` is aborted, too. */
  revoked: [notice: Revoked];
  /** Its tenant's config changed: `refresh()` gets it. */
  configChanged: [notice: ConfigChanged];
  /** Its tenant takes no new sessions; this one may go on. */
  suspended: [notice: Suspended];
  /** Its tenant takes new sessions again. */
  resumed: [notice: Resumed];
}

/** A session whose slot is held as long as this process lives. Made by `acquire` or `withSession`. */
export class Session extends EventEmitter<SessionEvents> implements AsyncDisposable {
  /** Its id: the one given, or one made here. */
  readonly sessionId: string;
  /** Named agent; empty when none was given. */
  readonly agentName: string;
  /** True when the sidecar could not be asked and `failOpen` let it run: no slot is held, `providers` is empty. */
  readonly failedOpen: boolean;
  /** Aborted once the slot is gone, or with the `signal` that was given. Hand it to what the session waits for. */
  readonly signal: AbortSignal;
  readonly #client: Tenantd;
  readonly #link: Link;
  readonly #revoking = new AbortController();
  readonly #frame: Frame | undefined;
  readonly #leave: () => void;
  #config: Config;
  #revoked: Revoked | undefined;
  #over = false;
  #left = false;
  /** The tenant that the sidecar bound it to. */
  readonly tenant: string;

  /** @internal */
  constructor(
    client: Tenantd,
    link: Link,
    request: AcquireRequest & { sessionId: string },
    granted: { tenant: string; config: SessionConfig } | undefined,
    frame: Frame | undefined,
    signal: AbortSignal | undefined,
    leave: () => void,
  ) {
    super();
    this.#client = client;
    this.#link = link;
    this.#frame = frame;
    this.#leave = leave;
    this.#config = granted ? toConfig(granted.config) : NOTHING;
    this.sessionId = request.sessionId;
    this.agentName = request.agentName ?? "";
    this.tenant = granted?.tenant ?? request.tenant ?? "";
    this.failedOpen = !granted;
    this.signal = signal ? AbortSignal.any([signal, this.#revoking.signal]) : this.#revoking.signal;
    if (granted) link.hold(this.sessionId, { request, tenant: this.tenant, told: (notice) => this.#told(notice) });
    if (frame) frame.binding = this.binding;
    tagSpan(this.binding);
  }

  /** What is bound to its code. */
  get binding(): Binding {
    return { tenant: this.tenant, sessionId: this.sessionId, agentName: this.agentName };
  }

  /** What it runs on, as of the acquire or the last `refresh()`. */
  get config(): Config {
    return this.#config;
  }

  /** Its tenant's providers by slot, for example `session.providers.llm.options`. */
  get providers(): Providers {
    return this.#config.providers;
  }

  /** Its tenant's labels. */
  get labels(): Readonly<Record<string, string>> {
    return this.#config.labels;
  }

  /** Set once the slot is gone. */
  get revoked(): Revoked | undefined {
    return this.#revoked;
  }

  /** Runs `fn` with the session bound, from code where it is not: a listener, a queue, a pool. */
  run<T>(fn: () => T): T {
    const { binding } = this;
    return withBaggage(binding, () => runBound(binding, fn));
  }

  /** Gets the tenant's config of now, for example after `configChanged`. */
  async refresh(): Promise<Config> {
    return (this.#config = toConfig(await this.#client.rpc.getConfig(this.sessionId)));
  }

  /**
   * Reports that it failed; it goes on, and ends as `failure`.
   *
   * @returns whether the tenant's circuit breaker counted it
   */
  async fail(failure: FailureOptions = {}): Promise<boolean> {
    if (this.failedOpen) return false;
    return (await this.#client.rpc.reportFailure({ sessionId: this.sessionId, failure })).counted;
  }

  /**
   * Logs an event of the session, for example `turn_started`.
   *
   * @param attributes - at most 4,096 bytes as JSON, without secrets
   */
  async publish(
    name: string,
    attributes?: JsonObject,
    severity: "debug" | "info" | "warning" | "error" = "info",
  ): Promise<void> {
    if (this.failedOpen) return;
    const level = Severity[severity.toUpperCase() as "DEBUG" | "INFO" | "WARNING" | "ERROR"];
    const event = { name, severity: level, ...(attributes && { attributes }) };
    const { refused } = await this.#client.rpc.publishEvents([{ sessionId: this.sessionId, event }]);
    for (const { reason, message } of refused) throw toTenantdError({ reason, message, sessionId: this.sessionId }, "");
  }

  /** Releases it, with an outcome of your own. A second call does nothing. */
  async end(outcome: OutcomeName, failure?: FailureOptions): Promise<void> {
    if (!this.#left) {
      this.#left = true;
      this.#leave();
      if (this.#frame) this.#frame.over = true;
    }
    if (this.#over || this.failedOpen) return;
    this.#over = true;
    this.#link.letGo(this.sessionId);
    const booked = { success: Outcome.SUCCESS, failure: Outcome.FAILURE, cancelled: Outcome.CANCELLED }[outcome];
    const request = { sessionId: this.sessionId, outcome: booked, ...(failure && { failure }) };
    try {
      await this.#client.rpc.release(request);
    } catch (error) {
      // Revoked, or reported with its end: nothing is left to free.
      if (!(error instanceof SessionEndedError || error instanceof SessionUnknownError)) this.#link.owe(request);
    }
  }

  /**
   * Ends it at the end of an `await using` block: `cancelled` where its signal is
   * aborted, else `success`. JavaScript does not tell a block's end how it ended:
   * `withSession` books what is thrown as `failure`, a block must call `fail()`.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.end(this.signal.aborted ? "cancelled" : "success");
  }

  #told(notice: Notice): void {
    if (notice.type === "configChanged") this.emit("configChanged", notice);
    if (notice.type === "suspended") this.emit("suspended", notice);
    if (notice.type === "resumed") this.emit("resumed", notice);
    if (notice.type !== "revoked") return;
    this.#revoked = notice;
    this.#revoking.abort(new DOMException(`session ${this.sessionId} is over: ${notice.cause}`, "AbortError"));
    this.emit("revoked", notice);
  }
}

/** @internal */
export function toRequest(options: SessionOptions, activate: boolean): AcquireRequest & { sessionId: string } {
  const { job, ttlMs } = options;
  return {
    // Made here, so that a lost reply can be asked for again.
    sessionId: options.sessionId || job?.id || `s-${randomUUID()}`,
    jobMetadata: options.jobMetadata ?? job?.metadata ?? "",
    roomMetadata: options.roomMetadata ?? job?.room?.metadata ?? "",
    tenant: options.tenant ?? "",
    agentName: options.agent ?? job?.agentName ?? "",
    activate,
    ...(ttlMs !== undefined && { ttl: durationFromMs(ttlMs) }),
  };
}

/** The error's class as a failure's kind. Not its text, which may hold a key. @internal */
export function kindOf(error: unknown): string {
  const name = error instanceof Error ? error.constructor.name || error.name : typeof error;
  return name.replace(/[^A-Za-z0-9_.-]/g, "_").slice(0, 64);
}
