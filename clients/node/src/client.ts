import { EventEmitter } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

import { toConfig, type Config } from "./config.js";
import { Connection, type ConnectionOptions } from "./connection.js";
import { enter, type Frame } from "./context.js";
import { AgentAtCapError, MachineAtCapError, TenantAtCapError, TenantdError } from "./errors.js";
import { Outcome } from "./gen/tenantd/v1/session_pb.js";
import type { AcquireSessionResponse } from "./gen/tenantd/v1/session_service_pb.js";
import { Known } from "./known.js";
import { LoopMonitor, SLOW_THRESHOLD_MS } from "./lag.js";
import { Link, share, undecided, unshare } from "./link.js";
import { stderr, type Logger } from "./log.js";
import {
  NoticeStream,
  type ConfigChanged,
  type Notice,
  type Resumed,
  type Revoked,
  type SidecarDraining,
  type Suspended,
} from "./notices.js";
import { TenantdRpc, type AcquireRequest } from "./rpc.js";
import { kindOf, Session, toRequest, type SessionOptions } from "./session.js";

/** How long an acquire that got no decision is tried again. */
const RETRY_FOR_MS = 1_000;

/** How to reach the sidecar, and what to do without it. */
export interface ConnectOptions extends ConnectionOptions {
  /** Deadline of every call; 2,000 when absent. */
  timeoutMs?: number;
  /** Name of this process; made here when absent. With one of its own the client has a stream of its own. */
  worker?: string;
  /**
   * Sessions run without slot and config while the sidecar cannot be asked, each with
   * an error in the log. By default they are refused with `SidecarUnavailableError`. A
   * refusal is never overruled.
   */
  failOpen?: boolean;
  /** Shortest block of the event loop that is told; 50 when absent, null switches it off. */
  slowThresholdMs?: number | null;
  /** Where warnings go; stderr when absent. A pino logger fits. */
  logger?: Logger;
}

/** Notices of this process as events. */
export interface NoticeEvents {
  /** A session's slot is gone. */
  revoked: [notice: Revoked];
  /** The sidecar stops soon. */
  draining: [notice: SidecarDraining];
  /** A tenant's config changed. */
  configChanged: [notice: ConfigChanged];
  /** A tenant takes no new sessions. */
  suspended: [notice: Suspended];
  /** A tenant takes new sessions again. */
  resumed: [notice: Resumed];
}

/** A slot for one session, not yet kept alive. */
export interface Grant {
  /** Which session. */
  readonly sessionId: string;
  /** The tenant that it is bound to. */
  readonly tenant: string;
  /** What it runs on. */
  readonly config: Config;
  /** False when the session was there already. */
  readonly created: boolean;
}

// One a thread: its hooks see every client's sessions.
let monitor: { of: LoopMonitor; users: number } | undefined;

/** Asks the sidecar for sessions. Made by {@link connect}. */
export class Tenantd extends EventEmitter<NoticeEvents> implements AsyncDisposable {
  /** The sidecar's address in its normal form. */
  readonly address: string;
  /** The plain calls, for what has no method here: `watch`, admin and so on. */
  readonly rpc: TenantdRpc;
  readonly #options: ConnectOptions;
  readonly #log: Logger;
  readonly #link: Link;
  readonly #known = new Known();
  readonly #streams = new Set<NoticeStream>();
  readonly #unsubscribe: () => void;
  #closed = false;

  /** @internal */
  constructor(options: ConnectOptions = {}) {
    super();
    const connection = new Connection(options);
    this.address = connection.address;
    this.#options = options;
    this.#log = options.logger ?? stderr;
    const { timeoutMs, worker } = options;
    this.rpc = new TenantdRpc({ connection, work: true, ...(timeoutMs !== undefined && { timeoutMs }) });
    this.#link = worker ? new Link(connection, this.#log, worker) : share(connection, this.#log);
    this.#unsubscribe = this.#link.subscribe((notice) => this.#told(notice));
  }

  /** Whether sessions run while the sidecar cannot be asked. */
  get failOpen(): boolean {
    return this.#options.failOpen ?? false;
  }

  /** Where warnings go. */
  get logger(): Logger {
    return this.#log;
  }

  /**
   * A session for a block: `await using session = await td.acquire({ job })`.
   *
   * Its tenant is bound to the running function, and its slot kept as long as this
   * process lives. To hold several at once in one function use {@link withSession} or
   * `session.run`: a function has one binding, the last. Read how a block's end is
   * booked at `Session[Symbol.asyncDispose]`.
   *
   * @throws a {@link TenantdError}: the class of the refusal's reason, or `SidecarUnavailableError`
   */
  acquire(options: SessionOptions = {}): Promise<Session> {
    // Not an async function: only before its first await does it share its caller's context.
    return this.#open(options, enter());
  }

  /**
   * Runs `fn` with a session, bound, and releases it: `success`, `failure` when it
   * throws, `cancelled` when it throws an `AbortError` or after `options.signal` was
   * aborted.
   *
   * @throws what `fn` throws, or a {@link TenantdError} as in {@link acquire}
   */
  async withSession<T>(options: SessionOptions, fn: (session: Session) => Promise<T> | T): Promise<T> {
    const session = await this.#open(options, undefined);
    try {
      const result = await session.run(() => fn(session));
      await session.end(session.signal.aborted ? "cancelled" : "success");
      return result;
    } catch (error) {
      const stopped = session.signal.aborted || (error instanceof Error && error.name === "AbortError");
      await (stopped ? session.end("cancelled") : session.end("failure", { kind: kindOf(error) }));
      throw error;
    }
  }

  /**
   * Takes a slot that another process will run: it must ask for the same session id
   * within the pending time (15 s), else the slot frees itself.
   */
  async reserve(options: SessionOptions): Promise<Grant> {
    const { session, config, created } = await this.#granted(toRequest(options, false), options);
    return { sessionId: session!.sessionId, tenant: session!.tenant, config: toConfig(config!), created };
  }

  /** Releases a slot that nobody will use, as cancelled: without waiting, and again while the sidecar is away. */
  giveBack(sessionId: string): void {
    this.#link.owe({ sessionId, outcome: Outcome.CANCELLED });
  }

  /**
   * Every notice of this process from now on: `for await (const notice of td.notices())`.
   * Ends when the client closes. At most 1,000 wait for a slow reader; then the oldest
   * are dropped, which the log says.
   */
  notices(): NoticeStream {
    const stream = new NoticeStream(
      (closed) => this.#streams.delete(closed),
      ({ type }) => this.#log.warn({}, `nobody reads the notices: ${type} is dropped`),
    );
    this.#streams.add(stream);
    return stream;
  }

  /** Closes the connection. Sessions that still run are not released: they end as lost after the grace. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#unsubscribe();
    for (const stream of this.#streams) stream.close();
    await (this.#options.worker ? this.#link.close() : unshare(this.#link));
    this.rpc.close();
  }

  /** The same. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #open(options: SessionOptions, frame: Frame | undefined): Promise<Session> {
    const { signal } = options;
    const request = toRequest(options, true);
    try {
      signal?.throwIfAborted();
      this.#link.start();
      request.worker = this.#link.worker;
      let granted: AcquireSessionResponse | undefined;
      const asking = this.#granted(request, options);
      try {
        granted = await unlessAborted(asking, signal);
      } catch (error) {
        const mayRun = !signal?.aborted && undecided(error);
        const giveBack = (): void => this.giveBack(request.sessionId);
        // Not before the answer: a release that overtakes the acquire would free nothing.
        if (signal?.aborted) void asking.then(giveBack, giveBack);
        // It may have been decided, and the answer lost.
        else if (mayRun) giveBack();
        if (!mayRun || !this.failOpen) throw error;
        const why = (error as Error).message.split("\n")[0] ?? "";
        const text = `session ${request.sessionId} runs WITHOUT a slot, a cap and a config: failOpen, and ${why}`;
        this.#log.error({ session_id: request.sessionId }, text);
      }
      const known = granted && { tenant: granted.session!.tenant, config: granted.config! };
      return new Session(this, this.#link, request, known, frame, signal, this.#watched());
    } catch (error) {
      if (frame) frame.over = true;
      throw error;
    }
  }

  /** Acquires, and asks again where that is safe and may help. */
  async #granted(request: AcquireRequest, { retryForMs = 0, signal }: SessionOptions): Promise<AcquireSessionResponse> {
    const start = performance.now();
    for (let wait = 50; ; wait = Math.min(wait * 2, 1_000)) {
      let pause: number;
      let limit: number;
      const owing = this.#link.owes;
      try {
        const known = this.#known.of(request);
        const answer = await this.rpc.acquire({ ...request, knownConfigVersion: known?.version ?? "" });
        return this.#known.fill(answer, known);
      } catch (error) {
        if (!(error instanceof TenantdError)) throw error;
        pause = error.retryAfterMs ?? wait;
        // Safe: the same session id gets the same slot.
        if (undecided(error)) limit = Math.min(this.#options.timeoutMs ?? 2_000, RETRY_FOR_MS);
        else if (atCap(error) && (owing || this.#link.owes)) {
          // The slot that is missing may be our own, its release not heard yet.
          this.#link.pay();
          pause = wait;
          limit = Math.max(Math.min(this.#options.timeoutMs ?? 2_000, RETRY_FOR_MS), retryForMs);
        } else if (error.disposition === "retry_later" || error.retryAfterMs !== undefined) limit = retryForMs;
        else throw error;
        if (performance.now() - start + pause > limit) throw error;
      }
      await sleep(pause * (1 + Math.random() / 10), undefined, signal && { signal });
    }
  }

  /** Has the loop watched while a session lives; gives the function that ends it. */
  #watched(): () => void {
    const threshold = this.#options.slowThresholdMs === undefined ? SLOW_THRESHOLD_MS : this.#options.slowThresholdMs;
    if (threshold === null) return () => {};
    const link = this.#link;
    monitor ??= { of: new LoopMonitor(threshold, (ms, id) => link.blocked(ms, id), this.#log), users: 0 };
    const mine = monitor;
    mine.users += 1;
    mine.of.enter();
    return () => {
      mine.of.leave();
      mine.users -= 1;
      if (mine.users === 0 && monitor === mine) monitor = undefined;
    };
  }

  #told(notice: Notice): void {
    for (const stream of this.#streams) stream.put(notice);
    switch (notice.type) {
      case "revoked":
        return void this.emit("revoked", notice);
      case "draining":
        return void this.emit("draining", notice);
      case "configChanged":
        return void this.emit("configChanged", notice);
      case "suspended":
        return void this.emit("suspended", notice);
      case "resumed":
        return void this.emit("resumed", notice);
    }
  }
}

/** Connects to the sidecar of this machine; the connection opens with the first call. */
export function connect(options: ConnectOptions = {}): Tenantd {
  return new Tenantd(options);
}

/** The refusals that a slot freed ends. */
function atCap(error: TenantdError): boolean {
  return error instanceof TenantAtCapError || error instanceof AgentAtCapError || error instanceof MachineAtCapError;
}

async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  let abort!: () => void;
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason as Error);
    signal.addEventListener("abort", abort, { once: true });
  });
  // Whoever loses must not be an unhandled rejection.
  work.catch(() => {});
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
