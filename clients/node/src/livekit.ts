/**
 * LiveKit Agents 1.9 and later.
 *
 * ```ts
 * export default defineAgent({
 *   entry: tenantd.entry(async (ctx: JobContext, call) => {
 *     const session = new voice.AgentSession({ llm: new openai.LLM(call.providers.llm.options) });
 *     call.watch(session);
 *     await session.start({ agent: new Receptionist(), room: ctx.room });
 *   }),
 * });
 * cli.runApp(new ServerOptions({ agent: fileURLToPath(import.meta.url), requestFunc: tenantd.requestFunc() }));
 * ```
 *
 * The request process takes the slot before it accepts the job; the job process gets the
 * same slot by the job's id, keeps it as long as it lives, and gives it back when the job
 * shuts down.
 *
 * @packageDocumentation
 */
import { connect, type Grant, type Tenantd } from "./client.js";
import { SidecarUnavailableError, TenantdError } from "./errors.js";
import type { OutcomeName, Session } from "./session.js";
import { kindOf } from "./session.js";
import type { JobLike } from "./session.js";

/** What is used of LiveKit's `JobRequest`. */
export interface JobRequestLike {
  readonly id: string;
  readonly job: JobLike;
  accept(name?: string, identity?: string, metadata?: string, attributes?: Record<string, string>): Promise<void>;
  reject(): Promise<void>;
}

/** What is used of LiveKit's `JobContext`. */
export interface JobContextLike {
  readonly job: JobLike;
  addShutdownCallback(callback: () => Promise<void>): void;
  shutdown(reason?: string): void;
}

/** What is used of LiveKit's `AgentSession`. */
export interface AgentSessionLike {
  // The listener's argument: LiveKit's ErrorEvent or CloseEvent.
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  on(event: any, listener: (event: any) => void): unknown;
}

/** Settings of the helpers. */
export interface LiveKitOptions {
  /** The client; one a process, made at its first use, when absent. */
  client?: Tenantd;
  /** Whether a job shuts down when its slot is taken away; true when absent. */
  stopWhenRevoked?: boolean;
}

const SLOTS: Readonly<Record<string, string>> = {
  llm_error: "llm",
  stt_error: "stt",
  tts_error: "tts",
  realtime_model_error: "realtime",
  interruption_detection_error: "interruption",
};

let processClient: Tenantd | undefined;

/** This process's client; `TENANTD_ADDRESS` says where to. */
export function defaultClient(): Tenantd {
  return (processClient ??= connect());
}

/** A `JobRequest` that is accepted only with a slot of its tenant. */
export class TenantRequest {
  /** LiveKit's own request. */
  readonly request: JobRequestLike;
  /** The slot, once accepted. */
  grant: Grant | undefined;
  /** Why the sidecar refused, where it did. */
  refused: TenantdError | undefined;
  readonly #client: Tenantd;

  /** @internal */
  constructor(request: JobRequestLike, client: Tenantd) {
    this.request = request;
    this.#client = client;
  }

  /** The job's id, which is the session's. */
  get id(): string {
    return this.request.id;
  }

  /** The job. */
  get job(): JobLike {
    return this.request.job;
  }

  /**
   * Takes a slot and accepts the job, with the arguments of `JobRequest.accept`. False
   * when the sidecar refused: the job is rejected then, for another worker to take
   * (LiveKit's Node SDK cannot reject for good). LiveKit does not wait for the
   * assignment: where it does not come, the slot frees itself after the pending time.
   */
  async accept(...args: Parameters<JobRequestLike["accept"]>): Promise<boolean> {
    const client = this.#client;
    try {
      this.grant = await client.reserve({ job: this.job, sessionId: this.id });
    } catch (error) {
      if (!(error instanceof TenantdError)) throw error;
      this.refused = error;
      const unanswered = error instanceof SidecarUnavailableError;
      if (unanswered) client.giveBack(this.id);
      if (!(client.failOpen && unanswered)) {
        client.logger.warn({ session_id: this.id }, `job is rejected: ${said(error)}`);
        await this.request.reject();
        return false;
      }
      client.logger.error({ session_id: this.id }, `job is accepted WITHOUT a slot: failOpen, and ${said(error)}`);
    }
    try {
      await this.request.accept(...args);
    } catch (error) {
      this.grant = undefined;
      client.giveBack(this.id);
      throw error;
    }
    return true;
  }

  /** Rejects the job. */
  async reject(): Promise<void> {
    await this.request.reject();
  }
}

/**
 * LiveKit's request function: no job without a slot.
 *
 * @param handler - decides which jobs are wanted and calls `accept` or `reject`; all are accepted when absent
 */
export function requestFunc(
  handler: (request: TenantRequest) => Promise<unknown> = (request) => request.accept(),
  options: LiveKitOptions = {},
): (request: JobRequestLike) => Promise<void> {
  return async (request) => void (await handler(new TenantRequest(request, options.client ?? defaultClient())));
}

/** The session of a LiveKit job. Made by {@link entry} or {@link start}. */
export class Call {
  /** The session itself: `refresh()`, `publish()`, `signal`, ... */
  readonly session: Session;
  #failed = false;
  #crashed: unknown;
  #reports: Promise<unknown>[] = [];

  /** @internal */
  constructor(session: Session) {
    this.session = session;
  }

  /** The tenant that the sidecar bound it to. */
  get tenant(): string {
    return this.session.tenant;
  }

  /** Its tenant's providers by slot, for example `call.providers.llm.options`. */
  get providers(): Session["providers"] {
    return this.session.providers;
  }

  /**
   * Reports what goes wrong in an `AgentSession`: its unrecoverable errors, and a close
   * because of one, with the provider slot. At most once. Call it before `session.start`.
   */
  watch(session: AgentSessionLike): void {
    session.on("error", ({ error }: { error?: Fault }) => {
      if (error && !error.recoverable) this.#blame(error);
    });
    session.on("close", ({ error }: { error?: Fault | null }) => {
      if (error) this.#blame(error);
    });
  }

  /** Reports a failure, from code that cannot wait. Further ones are not sent. */
  failed(slot: string, kind: string): void {
    if (this.#failed) return;
    this.#failed = true;
    const { session } = this;
    this.#reports.push(session.fail({ slot, kind }).catch(() => false));
  }

  /** @internal */
  crashed(error: unknown): void {
    this.#crashed = error ?? new Error("unknown");
  }

  /** Ends it, once: `failure` where one was reported or the entry threw. @internal */
  async finish(outcome: OutcomeName): Promise<void> {
    await Promise.all(this.#reports);
    if (this.session.revoked) await this.session.end("cancelled");
    else if (this.#crashed !== undefined) await this.session.end("failure", { kind: kindOf(this.#crashed) });
    else await this.session.end(this.#failed && outcome === "success" ? "failure" : outcome);
  }

  #blame(fault: Fault): void {
    // The class alone: an error's text may quote a key.
    this.failed(SLOTS[fault.type ?? ""] ?? "", kindOf(fault.error ?? fault));
  }
}

/** On one line. */
function said({ reason, detail }: TenantdError): string {
  return reason ? `${reason}: ${detail}` : detail;
}

interface Fault {
  type?: string;
  recoverable?: boolean;
  error?: unknown;
}

/**
 * An entry function with the job's slot: `handler` runs bound to the tenant, and what it
 * throws is booked as `failure`. Without a slot the job fails with a {@link TenantdError}.
 */
export function entry<Context extends JobContextLike>(
  handler: (ctx: Context, call: Call) => Promise<void>,
  options: LiveKitOptions = {},
): (ctx: Context) => Promise<void> {
  return async (ctx) => {
    const call = await start(ctx, options);
    try {
      await call.session.run(() => handler(ctx, call));
    } catch (error) {
      call.crashed(error);
      throw error;
    }
  };
}

/**
 * The job's slot, for an entry function of your own. The job's shutdown releases it: as
 * `failure` when `call.watch` saw one, as `cancelled` when LiveKit stopped the job.
 */
export async function start(ctx: JobContextLike, options: LiveKitOptions = {}): Promise<Call> {
  const client = options.client ?? defaultClient();
  const call = new Call(await client.acquire({ job: ctx.job }));
  let stopped = false;
  // LiveKit tells the job process, and not its callbacks, that it was asked to stop.
  process.on("message", (message: { case?: unknown } | null) => {
    stopped ||= message?.case === "shutdownRequest";
  });
  ctx.addShutdownCallback(() => call.finish(stopped ? "cancelled" : "success"));
  if (options.stopWhenRevoked !== false) {
    call.session.once("revoked", ({ cause }) => ctx.shutdown(`tenantd: session ${cause}`));
  }
  return call;
}
