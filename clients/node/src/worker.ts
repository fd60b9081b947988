import { randomBytes } from "node:crypto";
import { threadId } from "node:worker_threads";

/** A new identity of this process (or worker thread) and run. */
export function workerId(): string {
  const thread = threadId === 0 ? "" : `.${threadId}`;
  return `node-${process.pid}${thread}-${randomBytes(4).toString("hex")}`;
}
