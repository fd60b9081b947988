import { Metadata, status, type ClientDuplexStream, type ServiceError } from "@grpc/grpc-js";
import { create, fromBinary } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";

import { NotPermittedError, toTenantdError } from "./errors.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";
import {
  SessionService,
  WorkCallSchema,
  WorkRequestSchema,
  type WorkAnswer,
  type WorkCall,
  type WorkRequest,
  type WorkResponse,
} from "./gen/tenantd/v1/session_service_pb.js";
import type { TenantdRpc } from "./rpc.js";

type Call = Exclude<WorkCall["call"], { case: undefined }>;
/** Which call. */
export type Kind = Call["case"];
type Answer<K extends Kind> = Extract<WorkAnswer["answer"], { case: K }>["value"];

/** Most calls in one message: as many as the sidecar takes. */
const TOGETHER = 100;
/** Characters of metadata beyond which the next one gets a message of its own. */
const TOGETHER_METADATA = 65_536;

interface Waiting {
  kind: Kind;
  /** With its answer; with nothing: it is to be asked by a call of its own. */
  resolve(answer?: unknown): void;
  reject(error: unknown): void;
  /** Keeps the process alive while the call is under way: the stream does not. */
  timer: NodeJS.Timeout;
}

/** One opening of the stream. */
interface Opened {
  call: ClientDuplexStream<WorkRequest, WorkResponse>;
  waiting: Map<bigint, Waiting>;
  /** Asked, and not written yet. */
  together: WorkCall[];
  /** Characters of metadata in them. */
  metadata: number;
  stamp: string;
}

/**
 * The calls of one client over one stream, which costs a part of a call of its own.
 * It opens with the first call. Whatever it cannot do is done by a call of its own.
 */
export class Work {
  readonly #rpc: TenantdRpc;
  readonly #stamp: () => string;
  #opened: Opened | undefined;
  #next = 1n;
  #unsupported = false;

  /**
   * @param rpc - opens the stream; its connection does not keep the process alive
   * @param stamp - another one when the certificates are
   */
  constructor(rpc: TenantdRpc, stamp: () => string) {
    this.#rpc = rpc;
    this.#stamp = stamp;
  }

  /**
   * Asks over the stream.
   *
   * @returns nothing where it is to be asked by a call of its own
   */
  ask<K extends Kind>(
    kind: K,
    value: Extract<Call, { case: K }>["value"],
    timeoutMs: number,
  ): Promise<Answer<K> | undefined> {
    if (this.#unsupported || isTraced()) return Promise.resolve(undefined);
    const stamp = this.#stamp();
    if (this.#opened && this.#opened.stamp !== stamp) this.#leave(this.#opened);
    const opened = this.#opened ?? this.#open(stamp);
    const { waiting } = opened;
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        waiting.delete(id);
        reject(failed(status.DEADLINE_EXCEEDED, `Deadline exceeded after ${timeoutMs} ms`));
      }, timeoutMs);
      waiting.set(id, { kind, resolve: resolve as Waiting["resolve"], reject, timer });
      const request = { id, call: { case: kind, value } as Call, timeout: durationFromMs(Math.ceil(timeoutMs)) };
      this.#write(opened, create(WorkCallSchema, request));
    });
  }

  /** Together with whatever else is asked before this turn of the event loop ends. */
  #write(opened: Opened, asked: WorkCall): void {
    const { call } = asked;
    const metadata = call.case === "acquireSession" ? call.value.jobMetadata.length + call.value.roomMetadata.length : 0;
    if (opened.together.length >= TOGETHER || opened.metadata + metadata > TOGETHER_METADATA) this.#flush(opened);
    opened.metadata += metadata;
    if (opened.together.push(asked) === 1) process.nextTick(() => this.#flush(opened));
  }

  #flush(opened: Opened): void {
    const { together: calls } = opened;
    if (calls.length === 0) return;
    opened.together = [];
    opened.metadata = 0;
    opened.call.write(create(WorkRequestSchema, { calls }));
  }

  /** Ends the stream. */
  close(): void {
    if (this.#opened) this.#leave(this.#opened);
    this.#unsupported = true;
    this.#rpc.close();
  }

  #open(stamp: string): Opened {
    const call = this.#rpc.duplex(SessionService.method.work);
    const waiting = new Map<bigint, Waiting>();
    const opened: Opened = { call, waiting, together: [], metadata: 0, stamp };
    this.#opened = opened;
    let over = false;
    const end = (error?: ServiceError): void => {
      if (over) return;
      over = true;
      if (this.#opened === opened) this.#opened = undefined;
      this.#unsupported ||= error?.code === status.UNIMPLEMENTED;
      for (const { kind, resolve, reject, timer } of waiting.values()) {
        clearTimeout(timer);
        // It may have been done, and a second one is refused: its caller is to decide. A
        // stream that ended well has answered what it read.
        if (kind === "releaseSession" && error && !this.#unsupported) reject(error);
        else resolve();
      }
      waiting.clear();
    };
    call.on("data", ({ answers }: WorkResponse) => {
      for (const { id, answer } of answers) {
        const asked = waiting.get(id);
        if (!asked) continue;
        waiting.delete(id);
        clearTimeout(asked.timer);
        if (answer.case === asked.kind) asked.resolve(answer.value);
        else if (answer.case === "error") this.#refuse(opened, asked, answer.value);
        else asked.resolve();
      }
    });
    call.on("error", end);
    // Not "end", which comes before a bad status too.
    call.on("status", ({ code }: { code: status }) => code === status.OK && end());
    return opened;
  }

  #refuse(opened: Opened, asked: Waiting, bytes: Uint8Array): void {
    let said;
    try {
      said = fromBinary(StatusSchema, bytes);
    } catch {
      // It was decided, and nobody knows what. Thrown from here it would end the process.
      asked.reject(failed(status.INTERNAL, "the answer cannot be read"));
      return;
    }
    const metadata = new Metadata();
    metadata.set("grpc-status-details-bin", Buffer.from(bytes));
    const error = failed(said.code, said.message, metadata);
    if (toTenantdError(error, this.#rpc.address) instanceof NotPermittedError) {
      // A call of its own shows the token of now; the stream, that of when it opened.
      this.#leave(opened);
      asked.resolve();
    } else asked.reject(error);
  }

  /** What is under way is still answered. */
  #leave(opened: Opened): void {
    if (this.#opened === opened) this.#opened = undefined;
    this.#flush(opened);
    opened.call.end();
  }
}

/** As gRPC throws it. */
function failed(code: status, details: string, metadata = new Metadata()): ServiceError {
  return Object.assign(new Error(details), { code, details, metadata });
}

/** Instrumentation of gRPC knows calls, and no messages of a stream. */
function isTraced(): boolean {
  const otel = (globalThis as Record<symbol, { trace?: unknown; propagation?: unknown } | undefined>)[OTEL];
  return otel?.trace !== undefined || otel?.propagation !== undefined;
}

/** Where `@opentelemetry/api` 1.x keeps what is registered. */
const OTEL = Symbol.for("opentelemetry.js.api.1");
