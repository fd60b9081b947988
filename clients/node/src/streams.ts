import { status, type ClientDuplexStream, type ClientReadableStream, type ServiceError } from "@grpc/grpc-js";
import { create, type MessageInitShape } from "@bufbuild/protobuf";

import { toTenantdError, type TenantdError } from "./errors.js";
import {
  KeepAliveRequestSchema,
  type KeepAliveRequest,
  type KeepAliveResponse,
} from "./gen/tenantd/v1/session_service_pb.js";
import { attach, blocked } from "./lease.js";

type ReadableCall<T> = ClientReadableStream<T> | ClientDuplexStream<never, T>;

/**
 * Messages of the sidecar, for one `for await` loop. The loop ends when the
 * stream does; it throws a {@link TenantdError} when the stream breaks.
 */
export class MessageStream<T> implements AsyncIterable<T> {
  readonly #call: ReadableCall<T>;
  readonly #address: string;
  #failure: TenantdError | undefined;
  #closed = false;

  /** @internal */
  constructor(call: ReadableCall<T>, address: string) {
    this.#call = call;
    this.#address = address;
    // Also keeps a break of the stream from being an unhandled "error" event.
    call.on("error", (error: ServiceError) => {
      if (!(this.#closed && error.code === status.CANCELLED)) {
        this.#failure = toTenantdError(error, this.#address);
      }
    });
  }

  /** Ends the stream. */
  close(): void {
    this.#closed = true;
    this.#call.cancel();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    try {
      for await (const message of this.#call) yield message as T;
    } catch (error) {
      if (!this.#closed) throw this.#failure ?? toTenantdError(error, this.#address);
    } finally {
      this.close();
    }
    if (this.#failure) throw this.#failure;
  }

  /** Ends the stream. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

/**
 * The stream of one agent process. While it is open, the sessions attached to
 * it are kept alive; the messages of the sidecar are read by `for await`.
 */
export class KeepAlive extends MessageStream<KeepAliveResponse> {
  readonly #call: ClientDuplexStream<KeepAliveRequest, KeepAliveResponse>;

  /** @internal */
  constructor(call: ClientDuplexStream<KeepAliveRequest, KeepAliveResponse>, address: string, worker: string) {
    super(call as ClientDuplexStream<never, KeepAliveResponse>, address);
    this.#call = call;
    this.#send({ worker });
  }

  /**
   * Attaches sessions that this process runs from now on.
   *
   * @param sessionIds - at most 1,000
   */
  attach(...sessionIds: string[]): void {
    this.#send(attach(sessionIds));
  }

  /**
   * Reports that the event loop was blocked.
   *
   * @param ms - for how long
   * @param sessionId - the session that blocked it, where known
   */
  reportBlocked(ms: number, sessionId = ""): void {
    this.#send(blocked(ms, sessionId));
  }

  #send(message: MessageInitShape<typeof KeepAliveRequestSchema>): void {
    // A broken stream shows in the reading loop; a late write has nothing to add.
    if (this.#call.writable) this.#call.write(create(KeepAliveRequestSchema, message));
  }
}
