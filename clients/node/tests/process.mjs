/** A process with one session, for tests of its life: `node process.mjs ADDRESS TENANT WHAT`. */
import cluster from "node:cluster";
import { Worker, isMainThread, workerData } from "node:worker_threads";

import { connect } from "@tenantd/client";

const [address, tenant, what] = isMainThread ? process.argv.slice(2) : workerData;

if (what === "cluster" && cluster.isPrimary) {
  cluster.fork();
} else if (what === "thread") {
  new Worker(new URL(import.meta.url), { workerData: [address, tenant, "idle"] });
} else {
  const td = connect({ address });
  const session = await td.acquire({ tenant });
  console.log(session.sessionId);
  // The fork that is lost, not its primary.
  if (what === "cluster") setTimeout(() => process.kill(process.pid, "SIGKILL"), 300);
  // "end": nothing else is left to do, and the process must end by itself.
  if (what === "idle" || what === "cluster") setInterval(() => {}, 1_000);
  if (what === "throw") throw new Error("crash");
}
