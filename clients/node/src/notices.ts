import { durationMs } from "@bufbuild/protobuf/wkt";

import { EndCause } from "./gen/tenantd/v1/session_pb.js";
import type { KeepAliveResponse } from "./gen/tenantd/v1/session_service_pb.js";

/** A session's slot is gone: stop the session. */
export interface Revoked {
  readonly type: "revoked";
  /** Which session. */
  readonly sessionId: string;
  /** Its tenant. */
  readonly tenant: string;
  /**
   * `revoked` (by an operator), `drain_deadline`, or, where it ended while this process
   * was cut off, its outcome (`lost`, `revoked`) or the reason that it was refused for
   * when asked for again, for example `TENANT_AT_CAP`.
   */
  readonly cause: string;
  /** The operator's words; may be empty. */
  readonly note: string;
}

/** The sidecar takes no new sessions and stops soon. */
export interface SidecarDraining {
  readonly type: "draining";
  /** How long live sessions may still run. */
  readonly deadlineMs: number;
}

/** A tenant's config changed: `session.refresh()` gets the new one. */
export interface ConfigChanged {
  readonly type: "configChanged";
  /** Whose config. */
  readonly tenant: string;
  /** The new version; opaque. Empty: the tenant's entry was removed, and new sessions of it are refused. */
  readonly version: string;
  /** Live sessions of this process that it concerns. */
  readonly sessionIds: readonly string[];
}

/** An operator suspended a tenant: its sessions may go on, new ones are refused. */
export interface Suspended {
  readonly type: "suspended";
  /** Whom. */
  readonly tenant: string;
  /** Live sessions of this process that it concerns. */
  readonly sessionIds: readonly string[];
  /** The operator's words; may be empty. */
  readonly note: string;
}

/** A suspended tenant takes new sessions again. */
export interface Resumed {
  readonly type: "resumed";
  /** Whom. */
  readonly tenant: string;
  /** Live sessions of this process that it concerns. */
  readonly sessionIds: readonly string[];
  /** The operator's words; may be empty. */
  readonly note: string;
}

/** What the sidecar tells a process about its sessions. */
export type Notice = Revoked | SidecarDraining | ConfigChanged | Suspended | Resumed;

/** Notices that wait for a slow reader; then the oldest are dropped, which the log says. */
export const NOTICES_AT_MOST = 1_000;

/** @internal */
export function fromResponse({ message }: KeepAliveResponse): Notice | undefined {
  switch (message.case) {
    case "revoked": {
      const { sessionId, tenant, cause, note } = message.value;
      return { type: "revoked", sessionId, tenant, cause: (EndCause[cause] ?? "").toLowerCase(), note };
    }
    case "draining":
      return { type: "draining", deadlineMs: message.value.deadline ? durationMs(message.value.deadline) : 0 };
    case "configChanged": {
      const { tenant, version, sessionIds } = message.value;
      return { type: "configChanged", tenant, version, sessionIds };
    }
    case "suspended":
    case "resumed": {
      const { tenant, sessionIds, note } = message.value;
      return { type: message.case, tenant, sessionIds, note };
    }
    default:
      return undefined;
  }
}

/** Notices from now on, for one `for await` loop. */
export class NoticeStream implements AsyncIterable<Notice>, AsyncDisposable {
  readonly #waiting: Notice[] = [];
  readonly #onClose: (stream: NoticeStream) => void;
  readonly #onDrop: (dropped: Notice) => void;
  #wake: (() => void) | undefined;
  #closed = false;

  /** @internal */
  constructor(onClose: (stream: NoticeStream) => void, onDrop: (dropped: Notice) => void) {
    this.#onClose = onClose;
    this.#onDrop = onDrop;
  }

  /** @internal */
  put(notice: Notice): void {
    if (this.#waiting.length === NOTICES_AT_MOST) this.#onDrop(this.#waiting.shift()!);
    this.#waiting.push(notice);
    this.#wake?.();
  }

  /** Ends the loop after what waits already. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#onClose(this);
    this.#wake?.();
  }

  /** The same. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /** Notices in their order. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Notice, void, undefined> {
    try {
      for (;;) {
        const notice = this.#waiting.shift();
        if (notice) yield notice;
        else if (this.#closed) return;
        else await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    } finally {
      this.close();
    }
  }
}
