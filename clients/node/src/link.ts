import type { ClientDuplexStream } from "@grpc/grpc-js";
import { create, type MessageInitShape } from "@bufbuild/protobuf";

import type { Connection } from "./connection.js";
import {
  InvalidFieldError,
  NotPermittedError,
  SessionEndedError,
  SessionUnknownError,
  SidecarUnavailableError,
  TenantdError,
  UndecidedError,
} from "./errors.js";
import { Outcome } from "./gen/tenantd/v1/session_pb.js";
import {
  KeepAliveRequestSchema,
  SessionService,
  type KeepAliveAttached,
  type KeepAliveRequest,
  type KeepAliveResponse,
} from "./gen/tenantd/v1/session_service_pb.js";
import { attach, blocked } from "./lease.js";
import type { Logger } from "./log.js";
import { fromResponse, type Notice } from "./notices.js";
import { TenantdRpc, type AcquireRequest, type ReleaseRequest } from "./rpc.js";
import { workerId } from "./worker.js";

/** First and longest wait before the stream is opened again; doubled. */
const BACKOFF_MS = [50, 2_000] as const;
/** Sessions in one attach, the sidecar's bound. */
const ATTACH_AT_MOST = 1_000;
/** Revoked sessions remembered, so that each is told once. */
const GONE_AT_MOST = 1_000;
/** Releases kept while the sidecar is away; further ones are left to the grace. */
const OWED_AT_MOST = 10_000;
/** Between two reports of resident memory. */
const MEMORY_EVERY_MS = 10_000;

/** Before what was not decided is asked again. */
const LATER_MS = 1_000;

/** Called with a notice. */
export type Subscriber = (notice: Notice) => void;

/** A live session of this process: what it takes to have it again. */
export interface Held {
  readonly request: AcquireRequest & { sessionId: string };
  readonly tenant: string;
  /** Called with notices of this session alone. */
  readonly told: Subscriber;
}

/** One process's (or worker thread's) stream to one sidecar. It opens with the first session. */
export class Link {
  readonly connection: Connection;
  readonly address: string;
  readonly worker: string;
  readonly #rpc: TenantdRpc;
  readonly #stream: TenantdRpc;
  readonly #log: Logger;
  readonly #live = new Map<string, Held>();
  readonly #owed = new Map<string, ReleaseRequest>();
  readonly #gone = new Set<string>();
  readonly #subscribers = new Set<Subscriber>();
  #call: ClientDuplexStream<KeepAliveRequest, KeepAliveResponse> | undefined;
  readonly #waiting = new Set<NodeJS.Timeout>();
  #wait: number = BACKOFF_MS[0];
  #saidAway = false;
  #started = false;
  #settling = false;
  #closed = false;

  constructor(connection: Connection, log: Logger, worker = workerId()) {
    this.connection = connection;
    this.address = connection.address;
    this.worker = worker;
    this.#log = log;
    this.#rpc = new TenantdRpc({ connection });
    // A channel of its own: an open call must not keep the process alive, an
    // acquire that is under way must.
    this.#stream = new TenantdRpc({ connection, unreferenced: true });
  }

  /** Sessions held. */
  get live(): number {
    return this.#live.size;
  }

  /** Opens the stream, once; does not wait for it. */
  start(): void {
    if (this.#started || this.#closed) return;
    this.#started = true;
    this.#waiting.add(setInterval(() => this.#say({ memoryBytes: memory() }), MEMORY_EVERY_MS).unref());
    this.#open();
  }

  /** Keeps a session alive from now on. */
  hold(sessionId: string, held: Held): void {
    this.start();
    this.#live.set(sessionId, held);
    // Always: the stream may have broken and come back between the acquire and here.
    this.#say(attach([sessionId]));
  }

  /** Keeps it no longer. */
  letGo(sessionId: string): void {
    this.#live.delete(sessionId);
  }

  /** Releases a session as soon as the sidecar answers. */
  owe(request: ReleaseRequest & { sessionId: string }): void {
    this.start();
    this.#live.delete(request.sessionId);
    if (this.#owed.size < OWED_AT_MOST) this.#owed.set(request.sessionId, request);
    else this.#log.warn({ session_id: request.sessionId }, "too many releases wait; this one is left to its TTL");
    void this.#settle();
  }

  /** Whether releases wait for the sidecar: their slots are still taken. */
  get owes(): boolean {
    return this.#owed.size > 0;
  }

  /** Tries to be rid of what is owed, now. */
  pay(): void {
    void this.#settle();
  }

  /** Reports that this thread's event loop was blocked. */
  blocked(ms: number, sessionId: string): void {
    this.#say(blocked(ms, sessionId));
  }

  /** Has `subscriber` called with every notice. Gives the function that ends it. */
  subscribe(subscriber: Subscriber): () => void {
    this.#subscribers.add(subscriber);
    return () => void this.#subscribers.delete(subscriber);
  }

  /** Closes the stream. Sessions still held have the sidecar's grace. */
  async close(): Promise<void> {
    if (this.#owed.size > 0) await this.#settle();
    this.#closed = true;
    this.#waiting.forEach((timer) => clearTimeout(timer));
    this.#stream.close();
    this.#rpc.close();
  }

  #say(message: MessageInitShape<typeof KeepAliveRequestSchema>): void {
    // Nothing is lost: what is held is said again by the next stream.
    if (this.#call?.writable) this.#call.write(create(KeepAliveRequestSchema, message));
  }

  #open(): void {
    if (this.#closed) return;
    let call: ClientDuplexStream<KeepAliveRequest, KeepAliveResponse>;
    try {
      call = this.#stream.duplex(SessionService.method.keepAlive);
    } catch (error) {
      // A token or certificate that cannot be read: it may be there later.
      return this.#again((error as Error).message);
    }
    this.#call = call;
    let over = false;
    const ended = (): void => {
      if (over) return;
      over = true;
      if (this.#call === call) this.#call = undefined;
      this.#again();
    };
    call.on("metadata", () => {
      this.#wait = BACKOFF_MS[0];
      this.#saidAway = false;
      void this.#settle();
    });
    call.on("data", (message: KeepAliveResponse) => {
      if (message.message.case === "attached") this.#attached(message.message.value);
      else {
        const notice = fromResponse(message);
        if (notice) this.#tell(notice);
      }
    });
    call.on("error", ended);
    call.on("end", ended);
    this.#say({ worker: this.worker, memoryBytes: memory() });
    const ids = [...this.#live.keys()];
    for (let i = 0; i < ids.length; i += ATTACH_AT_MOST) {
      this.#say(attach(ids.slice(i, i + ATTACH_AT_MOST)));
    }
  }

  #again(why = ""): void {
    if (this.#closed) return;
    if (!this.#saidAway) {
      this.#saidAway = true;
      const live = `${this.live} sessions go on and re-attach`;
      this.#log.warn({}, `the sidecar at ${this.address} is away; ${live}${why && `: ${why}`}`);
    }
    const wait = this.#wait * (0.5 + Math.random() / 2);
    this.#wait = Math.min(this.#wait * 2, BACKOFF_MS[1]);
    this.#later(() => this.#open(), wait);
  }

  #attached({ refused }: KeepAliveAttached): void {
    for (const { sessionId, reason, outcome } of refused) {
      const held = this.#live.get(sessionId);
      if (!held) continue;
      if (reason === "SESSION_UNKNOWN") void this.#reacquire(sessionId, held);
      else {
        const cause = reason === "SESSION_ENDED" ? (Outcome[outcome] ?? "").toLowerCase() : reason;
        this.#tell({ type: "revoked", sessionId, tenant: held.tenant, cause, note: "" });
      }
    }
  }

  /** A sidecar that started anew: asks for the slot again, under the caps of now. */
  async #reacquire(sessionId: string, held: Held): Promise<void> {
    try {
      await this.#rpc.acquire({ ...held.request, worker: this.worker, activate: true });
    } catch (error) {
      // Not decided: asked again, by this stream or the next.
      if (undecided(error)) {
        return this.#later(() => this.#live.has(sessionId) && this.#say(attach([sessionId])));
      }
      const cause = error instanceof TenantdError ? error.reason || error.name : "UNDECIDED";
      return this.#tell({ type: "revoked", sessionId, tenant: held.tenant, cause, note: "" });
    }
    if (this.#live.has(sessionId)) this.#say(attach([sessionId]));
    else this.owe({ sessionId, outcome: Outcome.CANCELLED });
  }

  #later(what: () => void, ms = LATER_MS): void {
    const timer = setTimeout(() => {
      this.#waiting.delete(timer);
      what();
    }, ms).unref();
    this.#waiting.add(timer);
  }

  /** Pays owed releases. */
  async #settle(): Promise<void> {
    if (this.#settling || this.#closed) return;
    this.#settling = true;
    try {
      for (const [sessionId, request] of this.#owed) {
        try {
          await this.#rpc.release(request);
        } catch (error) {
          if (!nothingLeft(error)) {
            // The stream may have held while the sidecar could not answer, or was cut, or had
            // a fault: the session may still hold its slot.
            this.#later(() => void this.#settle());
            return;
          }
          if (!over(error)) this.#log.warn({ session_id: sessionId }, `it cannot be released: ${(error as Error).message}`);
        }
        if (this.#owed.get(sessionId) === request) this.#owed.delete(sessionId);
      }
    } finally {
      this.#settling = false;
    }
  }

  #tell(notice: Notice): void {
    const told = [...this.#subscribers];
    if (notice.type === "revoked") {
      const held = this.#live.get(notice.sessionId);
      this.#live.delete(notice.sessionId);
      if (held) told.unshift(held.told);
      // The answer to an attach has said it before the notice.
      else if (this.#gone.has(notice.sessionId)) return;
      this.#gone.add(notice.sessionId);
      if (this.#gone.size > GONE_AT_MOST) this.#gone.delete(this.#gone.values().next().value!);
    } else if (notice.type !== "draining") {
      for (const id of notice.sessionIds) {
        const held = this.#live.get(id);
        if (held) told.unshift(held.told);
      }
    }
    for (const subscriber of told) {
      try {
        subscriber(notice);
      } catch (error) {
        this.#log.error({ error: String(error) }, `a listener for ${notice.type} failed`);
      }
    }
  }
}

/** Whether the session has ended already. */
function over(error: unknown): boolean {
  return error instanceof SessionEndedError || error instanceof SessionUnknownError;
}

/** Whether a release that failed so need not be asked again. */
function nothingLeft(error: unknown): boolean {
  return over(error) || error instanceof NotPermittedError || error instanceof InvalidFieldError;
}

/** Whether asking again with the same session id is safe and may help. */
export function undecided(error: unknown): boolean {
  return error instanceof SidecarUnavailableError || error instanceof UndecidedError;
}

function memory(): bigint {
  return BigInt(process.memoryUsage.rss());
}

const shared = new Map<string, { link: Link; users: number }>();

/** The process's link over `connection`; give it back with `unshare`. */
export function share(connection: Connection, log: Logger): Link {
  const known = shared.get(connection.key) ?? { link: new Link(connection, log), users: 0 };
  known.users += 1;
  shared.set(connection.key, known);
  return known.link;
}

/** Closes the link with its last user. */
export async function unshare(link: Link): Promise<void> {
  const known = shared.get(link.connection.key);
  if (known?.link === link) {
    known.users -= 1;
    if (known.users > 0) return;
    shared.delete(link.connection.key);
  }
  await link.close();
}
