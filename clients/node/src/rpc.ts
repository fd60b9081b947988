import { randomUUID } from "node:crypto";
import { Client, status, type CallOptions as GrpcCallOptions, type ClientDuplexStream } from "@grpc/grpc-js";
import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethodBiDiStreaming,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";

import { grpcTarget } from "./address.js";
import { Connection, unreferenced, type ConnectionOptions } from "./connection.js";
import { SidecarUnavailableError, toTenantdError } from "./errors.js";
import type { SessionConfig } from "./gen/tenantd/v1/provider_pb.js";
import type { Outcome, Session } from "./gen/tenantd/v1/session_pb.js";
import {
  SessionService,
  type AcquireSessionRequestSchema,
  type AcquireSessionResponse,
  type PublishedEventSchema,
  type PublishEventsResponse,
  type ReleaseSessionRequestSchema,
  type RenewSessionRequestSchema,
  type ReportFailureRequestSchema,
  type ReportFailureResponse,
} from "./gen/tenantd/v1/session_service_pb.js";
import {
  WatchService,
  type WatchSessionsRequestSchema,
  type WatchSessionsResponse,
} from "./gen/tenantd/v1/watch_service_pb.js";
import { leaseToken } from "./lease.js";
import { hideCredentials } from "./redact.js";
import { KeepAlive, MessageStream } from "./streams.js";
import { Work, type Kind } from "./work.js";

/** How to reach the sidecar. */
export interface ClientOptions extends ConnectionOptions {
  /** Deadline of every unary call in milliseconds; 2,000 when absent. */
  timeoutMs?: number;
  /** Instead of the options of one. @internal */
  connection?: Connection;
  /** A channel of its own, which does not keep the process alive; see `link.ts`. @internal */
  unreferenced?: boolean;
  /** Its calls about sessions go over one stream; see `work.ts`. @internal */
  work?: boolean;
}

/** Settings of one call. */
export interface CallOptions {
  /** Deadline in milliseconds; the client's when absent. */
  timeoutMs?: number;
}

/** Fields of an acquire; see `AcquireSessionRequest` in the proto. */
export type AcquireRequest = MessageInitShape<typeof AcquireSessionRequestSchema>;
/** Fields of a renewal. */
export type RenewRequest = MessageInitShape<typeof RenewSessionRequestSchema>;
/** Fields of a release. */
export type ReleaseRequest = MessageInitShape<typeof ReleaseSessionRequestSchema>;
/** Fields of a failure report. */
export type ReportFailureRequest = MessageInitShape<typeof ReportFailureRequestSchema>;
/** One event of one live session. */
export type EventInit = MessageInitShape<typeof PublishedEventSchema>;
/** What to watch, and from where. */
export type WatchRequest = MessageInitShape<typeof WatchSessionsRequestSchema>;

type AnyMethod<I extends DescMessage, O extends DescMessage> =
  | DescMethodUnary<I, O>
  | DescMethodServerStreaming<I, O>
  | DescMethodBiDiStreaming<I, O>;

/**
 * The sidecar's calls, typed: one method per call, nothing retried, no state but
 * the connection. Every method fails with a {@link TenantdError}.
 */
export class TenantdRpc {
  /** The sidecar's address in its normal form. */
  readonly address: string;
  readonly #timeoutMs: number;
  readonly #connection: Connection;
  readonly #unreferenced: boolean;
  readonly #work: Work | undefined;
  #made: { grpc: Client; stamp: string } | undefined;
  readonly #streams = new Set<{ close(): void }>();

  /**
   * Connects on the first call.
   *
   * @throws {@link RangeError} when the address is none, or settings do not fit together
   */
  constructor(options: ClientOptions = {}) {
    this.#connection = options.connection ?? new Connection(options);
    this.address = this.#connection.address;
    this.#timeoutMs = options.timeoutMs ?? 2_000;
    this.#unreferenced = options.unreferenced ?? false;
    if (options.work) {
      const connection = this.#connection;
      this.#work = new Work(new TenantdRpc({ connection, unreferenced: true }), () => connection.stamp());
    }
  }

  /** With the certificates of now; calls over those of then go on to their ends. */
  get #grpc(): Client {
    const stamp = this.#connection.stamp();
    if (this.#made?.stamp !== stamp) {
      let credentials;
      try {
        credentials = this.#connection.credentials();
      } catch (error) {
        throw this.#unreadable(error);
      }
      this.#made?.grpc.close();
      const grpc = new Client(grpcTarget(this.address), this.#unreferenced ? unreferenced(credentials) : credentials, {
        interceptors: this.#connection.interceptors(),
        // Channels with the same target share connections, whatever their credentials.
        "grpc.use_local_subchannel_pool": this.#unreferenced || stamp ? 1 : 0,
        // The sidecar is on this machine: no proxy leads there, and after its
        // restart the leases have only a short grace to be attached again.
        "grpc.enable_http_proxy": 0,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 2_000,
      });
      this.#made = { grpc, stamp };
    }
    return this.#made!.grpc;
  }

  /** A token or certificate that cannot be read. */
  #unreadable(error: unknown): SidecarUnavailableError {
    const message = `tenantd at ${this.address} cannot be asked: ${(error as Error).message}`;
    return new SidecarUnavailableError(message, this.address, { code: status.UNAVAILABLE, cause: error });
  }

  /**
   * Takes a slot for one session of one tenant. Idempotent by `sessionId`. The
   * answer holds the tenant's credentials in clear, hidden from
   * `console.log` and `JSON.stringify`.
   */
  async acquire(request: AcquireRequest, options?: CallOptions): Promise<AcquireSessionResponse> {
    // Made here, so that the lease token can be.
    const named = request.sessionId ? request : { ...request, sessionId: `s-${randomUUID()}` };
    const response = await this.#ask("acquireSession", SessionService.method.acquireSession, shown(named), options);
    hideCredentials(response.config);
    return response;
  }

  /** A sign of life: activates a pending lease and carries it on by its TTL. */
  async renew(request: RenewRequest, options?: CallOptions): Promise<Session> {
    const { session } = await this.#ask("renewSession", SessionService.method.renewSession, shown(request), options);
    return this.#present(session);
  }

  /** Ends a session, frees its slot and returns the outcome booked. */
  async release(request: ReleaseRequest, options?: CallOptions): Promise<Outcome> {
    return (await this.#ask("releaseSession", SessionService.method.releaseSession, shown(request), options)).outcome;
  }

  /** Marks a live session as failed. */
  async reportFailure(request: ReportFailureRequest, options?: CallOptions): Promise<ReportFailureResponse> {
    return this.#ask("reportFailure", SessionService.method.reportFailure, shown(request), options);
  }

  /** The current config of a live session. */
  async getConfig(sessionId: string, options?: CallOptions): Promise<SessionConfig> {
    const { config } = await this.#ask("getSessionConfig", SessionService.method.getSessionConfig, shown({ sessionId }), options);
    hideCredentials(config);
    return this.#present(config);
  }

  /**
   * Opens the stream of this process. Keep one open per process and read it.
   *
   * @param worker - identity of the process, the same as in its acquires
   */
  keepAlive(worker: string): KeepAlive {
    const call = this.duplex(SessionService.method.keepAlive);
    return this.#track(call, new KeepAlive(call, this.address, worker));
  }

  /**
   * Publishes events of live sessions. Events that the sidecar refuses are in
   * the answer's `refused`; they are not thrown.
   *
   * @param events - at most 100
   */
  async publishEvents(events: EventInit[], options?: CallOptions): Promise<PublishEventsResponse> {
    const method = SessionService.method.publishEvents;
    const call = this.duplex(method, this.#deadline(options));
    const stream = this.#track(call, new MessageStream<PublishEventsResponse>(call, this.address));
    call.end(create(method.input, { events: events.map(shown) }));
    for await (const response of stream) return response;
    return this.#present<PublishEventsResponse>(undefined);
  }

  /** Snapshot and changes of sessions and tenants, until the loop is left. */
  watch(request: WatchRequest = {}): MessageStream<WatchSessionsResponse> {
    const method = WatchService.method.watchSessions;
    const call = this.#opened((grpc) =>
      grpc.makeServerStreamRequest(
        path(method),
        encoder(method.input),
        decoder(method.output),
        create(method.input, request),
      ),
    );
    return this.#track(call, new MessageStream<WatchSessionsResponse>(call, this.address));
  }

  /** Over the stream where there is one, else by a call of its own. */
  async #ask<K extends Kind, I extends DescMessage, O extends DescMessage>(
    kind: K,
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options?: CallOptions,
  ): Promise<MessageShape<O>> {
    if (this.#work) {
      try {
        const timeoutMs = options?.timeoutMs ?? this.#timeoutMs;
        const answer = await this.#work.ask(kind, create(method.input, request) as never, timeoutMs);
        if (answer) return answer as MessageShape<O>;
      } catch (error) {
        throw toTenantdError(error, this.address);
      }
    }
    return this.unary(method, request, options);
  }

  /**
   * Calls any unary method, for example one of `AdminService`.
   *
   * @param method - from a service descriptor of `@tenantd/client/proto`
   */
  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options?: CallOptions,
  ): Promise<MessageShape<O>> {
    try {
      const answer = await new Promise<MessageShape<O> | undefined>((resolve, reject) => {
        this.#grpc.makeUnaryRequest(
          path(method),
          encoder(method.input),
          decoder(method.output),
          create(method.input, request),
          this.#deadline(options),
          (error, response) => (error ? reject(error) : resolve(response)),
        );
      });
      return this.#present(answer);
    } catch (error) {
      if (isOfFile(error)) throw this.#unreadable(error);
      // Made here, not in the callback: its stack then names who called.
      throw toTenantdError(error, this.address);
    }
  }

  /** Ends all streams and the connection. */
  close(): void {
    this.#work?.close();
    for (const stream of this.#streams) stream.close();
    this.#made?.grpc.close();
  }

  /** Ends all streams and the connection. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /** @internal */
  duplex<I extends DescMessage, O extends DescMessage>(
    method: DescMethodBiDiStreaming<I, O>,
    options: GrpcCallOptions = {},
  ): ClientDuplexStream<MessageShape<I>, MessageShape<O>> {
    return this.#opened((grpc) =>
      grpc.makeBidiStreamRequest(path(method), encoder(method.input), decoder(method.output), options),
    );
  }

  #opened<T>(open: (grpc: Client) => T): T {
    try {
      return open(this.#grpc);
    } catch (error) {
      throw isOfFile(error) ? this.#unreadable(error) : error;
    }
  }

  /** A closed channel lets its streams run on, so `close` has to know them. */
  #track<S extends { close(): void }>(call: { on(event: "status", listener: () => void): unknown }, stream: S): S {
    this.#streams.add(stream);
    call.on("status", () => this.#streams.delete(stream));
    return stream;
  }

  #deadline(options?: CallOptions): GrpcCallOptions {
    return { deadline: Date.now() + (options?.timeoutMs ?? this.#timeoutMs) };
  }

  /** An answer without what it must hold is the sidecar's fault, not the caller's. */
  #present<T>(value: T | undefined): T {
    if (value === undefined) throw toTenantdError(new Error("tenantd sent an incomplete answer"), this.address);
    return value;
  }
}

/** gRPC's own codes are numbers. */
function isOfFile(error: unknown): boolean {
  return typeof (error as NodeJS.ErrnoException).code === "string";
}

/** With the session's lease token, where it has none of its own. */
function shown<T extends { sessionId?: string }>(request: T): T {
  const { sessionId } = request;
  return sessionId ? { leaseToken: leaseToken(sessionId), ...request } : request;
}

function path<I extends DescMessage, O extends DescMessage>(method: AnyMethod<I, O>): string {
  return `/${method.parent.typeName}/${method.name}`;
}

function encoder<D extends DescMessage>(schema: D): (message: MessageShape<D>) => Buffer {
  return (message) => {
    const bytes = toBinary(schema, message);
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  };
}

function decoder<D extends DescMessage>(schema: D): (bytes: Buffer) => MessageShape<D> {
  return (bytes) => fromBinary(schema, bytes);
}
