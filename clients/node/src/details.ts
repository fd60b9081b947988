import type { Metadata } from "@grpc/grpc-js";
import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack, durationMs } from "@bufbuild/protobuf/wkt";

import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";

/** Domain of the sidecar's reasons; the same reason of another domain is not ours. */
const DOMAIN = "tenantd.dev";

/** A request field that was wrong. */
export interface FieldViolation {
  /** Name of the field as in the proto. */
  readonly field: string;
  /** What is wrong with it. */
  readonly description: string;
}

/** What the details of a status say. */
export interface Details {
  reason?: string;
  metadata: Readonly<Record<string, string>>;
  tenant?: string | undefined;
  sessionId?: string | undefined;
  limit?: number | undefined;
  current?: number | undefined;
  outcome?: string | undefined;
  retryAfterMs?: number;
  fields: FieldViolation[];
}

/** Reads `grpc-status-details-bin`. Details that cannot be read count as absent. */
export function decodeDetails(metadata: Metadata | undefined): Details {
  const details: Details = { metadata: {}, fields: [] };
  const bytes = metadata?.get("grpc-status-details-bin")[0];
  if (!(bytes instanceof Uint8Array)) return details;
  try {
    for (const any of fromBinary(StatusSchema, bytes).details) {
      const info = anyUnpack(any, ErrorInfoSchema);
      if (info?.domain === DOMAIN) {
        details.reason = info.reason;
        details.metadata = info.metadata;
        details.tenant = info.metadata["tenant"];
        details.sessionId = info.metadata["sessionId"];
        details.outcome = info.metadata["outcome"];
        details.limit = figure(info.metadata["limit"]);
        details.current = figure(info.metadata["current"]);
      }
      const retry = anyUnpack(any, RetryInfoSchema);
      if (retry?.retryDelay) details.retryAfterMs = durationMs(retry.retryDelay);
      for (const violation of anyUnpack(any, BadRequestSchema)?.fieldViolations ?? []) {
        details.fields.push({ field: violation.field, description: violation.description });
      }
    }
  } catch {
    // The status code and message still say what happened.
  }
  return details;
}

/** LIMIT_REACHED may name a table instead of a figure: that stays in the metadata. */
function figure(text: string | undefined): number | undefined {
  return text !== undefined && /^[0-9]+$/.test(text) ? Number(text) : undefined;
}
