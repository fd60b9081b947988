import type { SessionConfig } from "./gen/tenantd/v1/provider_pb.js";
import type { AcquireSessionResponse } from "./gen/tenantd/v1/session_service_pb.js";
import type { AcquireRequest } from "./rpc.js";

/** Tenants remembered; the one that was asked for least recently is forgotten first. */
const MOST = 1_000;
/** Longest metadata that is looked into for a tenant. */
const MOST_METADATA = 65_536;

/**
 * The last config of each tenant, in memory alone, so that the sidecar need not send it
 * again, nor the keys in it.
 */
export class Known {
  readonly #configs = new Map<string, SessionConfig>();

  /** The config that is held for a request's tenant, to be named in it. */
  of(request: AcquireRequest): SessionConfig | undefined {
    return this.#configs.get(request.tenant || tenantIn(request));
  }

  /** Puts the config that the request named where the answer says that it is the current one. */
  fill(answer: AcquireSessionResponse, named: SessionConfig | undefined): AcquireSessionResponse {
    if (answer.configUnchanged && named) answer.config = named;
    const { config } = answer;
    const tenant = answer.session?.tenant;
    // A stale one is nobody's to hold on to.
    if (config && tenant && !config.stale) {
      this.#configs.delete(tenant);
      this.#configs.set(tenant, config);
      if (this.#configs.size > MOST) this.#configs.delete(this.#configs.keys().next().value!);
    }
    return answer;
  }
}

/** A guess: the sidecar binds the tenant. A wrong one costs a config sent again. */
function tenantIn({ jobMetadata, roomMetadata }: AcquireRequest): string {
  for (const metadata of [jobMetadata, roomMetadata]) {
    if (!metadata || metadata.length > MOST_METADATA) continue;
    try {
      const tenant: unknown = (JSON.parse(metadata) as { tenant?: unknown } | null)?.tenant;
      if (typeof tenant === "string" && tenant) return tenant.trim();
    } catch {
      // Somebody's free text.
    }
  }
  return "default";
}
