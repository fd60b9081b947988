import { status, type ServiceError } from "@grpc/grpc-js";

import { decodeDetails, type FieldViolation } from "./details.js";
import type { Reason } from "./gen/tenantd/v1/reason_pb.js";

export type { FieldViolation } from "./details.js";

/** Stable name of a refusal, as in `google.rpc.ErrorInfo.reason`. */
export type ReasonName = Exclude<keyof typeof Reason, "UNSPECIFIED">;

/** What a dispatcher should do next with a refused session. */
export type DispositionName = "retry_elsewhere" | "retry_later" | "final";

/** What a {@link TenantdError} is made of. */
export interface TenantdErrorFields {
  /** gRPC status code. */
  code: status;
  /** Why it was refused; `""` when the sidecar gave no reason. */
  reason?: string;
  /** Tenant concerned. */
  tenant?: string | undefined;
  /** Session concerned. */
  sessionId?: string | undefined;
  /** What to do next. */
  disposition?: DispositionName | undefined;
  /** When to come back. */
  retryAfterMs?: number | undefined;
  /** The limit met. */
  limit?: number | undefined;
  /** The figure that met it. */
  current?: number | undefined;
  /** How the session ended. */
  outcome?: string | undefined;
  /** Fields that were wrong. */
  fields?: readonly FieldViolation[];
  /** All of `ErrorInfo.metadata`. */
  metadata?: Readonly<Record<string, string>>;
  /** The error beneath. */
  cause?: unknown;
}

/**
 * An error of the sidecar. Each reason has a class of its own; a reason that
 * this version does not know arrives as this class.
 */
export class TenantdError extends Error {
  /** What is wrong, in the sidecar's words: `message` without reason, retry time and hint. */
  readonly detail: string;
  /** gRPC status code. */
  readonly code: status;
  /** Stable reason, for example `"TENANT_AT_CAP"`; `""` when none was given. */
  readonly reason: string;
  /** Tenant concerned, where known. */
  readonly tenant: string | undefined;
  /** Session concerned, where known. */
  readonly sessionId: string | undefined;
  /** What a dispatcher should do next, where the sidecar said so. */
  readonly disposition: DispositionName | undefined;
  /** Milliseconds until a retry makes sense, where known. */
  readonly retryAfterMs: number | undefined;
  /** The limit met, where one was. */
  readonly limit: number | undefined;
  /** The figure that met it. */
  readonly current: number | undefined;
  /** How the session ended, with `SESSION_ENDED`; for example `"success"`. */
  readonly outcome: string | undefined;
  /** Fields that were wrong, with `INVALID_FIELD`. */
  readonly fields: readonly FieldViolation[];
  /** All of `ErrorInfo.metadata`. */
  readonly metadata: Readonly<Record<string, string>>;

  /** @internal */
  constructor(message: string, fields: TenantdErrorFields) {
    super(forPeople(message, fields), fields.cause === undefined ? {} : { cause: fields.cause });
    this.name = new.target.name;
    this.detail = message;
    this.code = fields.code;
    this.reason = fields.reason ?? "";
    this.tenant = fields.tenant;
    this.sessionId = fields.sessionId;
    this.disposition = fields.disposition;
    this.retryAfterMs = fields.retryAfterMs;
    this.limit = fields.limit;
    this.current = fields.current;
    this.outcome = fields.outcome;
    this.fields = fields.fields ?? [];
    this.metadata = fields.metadata ?? {};
  }
}

/** What a developer or operator can do about it. */
const HINTS: Readonly<Record<string, string>> = {
  TENANT_MALFORMED: 'Dispatch with metadata {"tenant": "<1-128 of A-Z a-z 0-9 _ ->"}, or with none for `default`.',
  TENANT_CONFLICT: "Leave `tenant` out, or make it agree with the metadata.",
  DRAINING: "Reject the job so that another machine takes it; this one is about to stop.",
  TENANT_SUSPENDED: "An operator did this: `tenantd tenants NAME` says who and why, `tenantd resume NAME` ends it.",
  CIRCUIT_OPEN: "Too many sessions of this tenant failed: look at its provider and key; `tenantd breaker` shows and resets.",
  TENANT_AT_CAP: "Release sessions (`tenantd sessions` lists them), or raise the cap: `tenantd cap TENANT N`.",
  CONFIG_UNAVAILABLE: "A credential or the tenant's entry could not be read: see the sidecar's log.",
  TENANT_UNKNOWN: 'Add the tenant to the config, or set unknown_tenants = "accept".',
  SESSION_CONFLICT: "Session ids are unique over tenants: use the dispatcher's job id.",
  SESSION_ENDED: "Use a new session id for a new session.",
  SESSION_UNKNOWN: "It was never acquired here, or ended long ago.",
};

function forPeople(message: string, { reason, retryAfterMs }: TenantdErrorFields): string {
  const retry = retryAfterMs === undefined ? "" : ` (retry after ${retryAfterMs / 1000} s)`;
  const hint = reason && Object.hasOwn(HINTS, reason) ? `\n  ${HINTS[reason]}` : "";
  return `${reason ? `${reason}: ` : ""}${message}${retry}${hint}`;
}

/** The tenant id breaks the rule. Final. */
export class TenantMalformedError extends TenantdError {}
/** The explicit tenant differs from the one in the metadata. Final. */
export class TenantConflictError extends TenantdError {}
/** A request field is out of its bounds; `fields` names it. Final. */
export class InvalidFieldError extends TenantdError {}
/** The caller may not do this. Final. */
export class NotPermittedError extends TenantdError {}
/** The sidecar is draining and takes no new session. Try elsewhere. */
export class DrainingError extends TenantdError {}
/** An operator suspended the tenant. Final. */
export class TenantSuspendedError extends TenantdError {}
/** The tenant's breaker is open, or all its probes are taken. Try after `retryAfterMs`. */
export class CircuitOpenError extends TenantdError {}
/** The tenant has as many live sessions as its cap allows. Try elsewhere. */
export class TenantAtCapError extends TenantdError {}
/** The agent has as many live sessions as its cap allows. Try elsewhere. */
export class AgentAtCapError extends TenantdError {}
/** The machine has as many live sessions as its cap allows. Try elsewhere. */
export class MachineAtCapError extends TenantdError {}
/** The tenant's config or a credential could not be resolved. Try later. */
export class ConfigUnavailableError extends TenantdError {}
/** The tenant has no entry and unknown tenants are rejected. Final. */
export class TenantUnknownError extends TenantdError {}
/** The session id belongs to a session of another tenant. Final. */
export class SessionConflictError extends TenantdError {}
/** The session has ended; `outcome` says how. Final. */
export class SessionEndedError extends TenantdError {}
/** No session of this id is known. Final. */
export class SessionUnknownError extends TenantdError {}
/** A bounded table of the sidecar is full. Try elsewhere. */
export class LimitReachedError extends TenantdError {}
/** The config file could not be reloaded; the running one is kept. Final. */
export class ReloadFailedError extends TenantdError {}
/** The sidecar could not decide: a fault, not a refusal. Try later. */
export class UndecidedError extends TenantdError {}
/** An admin call could not be recorded, so nothing was done. Try later. */
export class AuditUnavailableError extends TenantdError {}
/** The tenant asks for too many new sessions in a second; `retryAfterMs` says when. */
export class RateLimitedError extends TenantdError {}
/** Too many acquires wait for their configs; another machine may have room. */
export class OverloadedError extends TenantdError {}

/** The sidecar did not answer: no connection, one that broke, or the deadline passed. */
export class SidecarUnavailableError extends TenantdError {
  /** The address that was tried. */
  readonly address: string;

  /** @internal */
  constructor(message: string, address: string, fields: TenantdErrorFields) {
    super(message, fields);
    this.address = address;
  }
}

/** Class of each reason. */
export const errorClasses: Readonly<Record<ReasonName, typeof TenantdError>> = Object.freeze({
  TENANT_MALFORMED: TenantMalformedError,
  TENANT_CONFLICT: TenantConflictError,
  INVALID_FIELD: InvalidFieldError,
  NOT_PERMITTED: NotPermittedError,
  DRAINING: DrainingError,
  TENANT_SUSPENDED: TenantSuspendedError,
  CIRCUIT_OPEN: CircuitOpenError,
  TENANT_AT_CAP: TenantAtCapError,
  AGENT_AT_CAP: AgentAtCapError,
  MACHINE_AT_CAP: MachineAtCapError,
  CONFIG_UNAVAILABLE: ConfigUnavailableError,
  TENANT_UNKNOWN: TenantUnknownError,
  SESSION_CONFLICT: SessionConflictError,
  SESSION_ENDED: SessionEndedError,
  SESSION_UNKNOWN: SessionUnknownError,
  LIMIT_REACHED: LimitReachedError,
  RELOAD_FAILED: ReloadFailedError,
  UNDECIDED: UndecidedError,
  AUDIT_UNAVAILABLE: AuditUnavailableError,
  RATE_LIMITED: RateLimitedError,
  OVERLOADED: OverloadedError,
});

/**
 * Turns what gRPC threw into a {@link TenantdError}.
 *
 * @param error - what the call failed with
 * @param address - the sidecar's address, for the message when it is not there
 */
export function toTenantdError(error: unknown, address: string): TenantdError {
  if (error instanceof TenantdError) return error;
  if (isRefusal(error)) {
    const Class = classOf(error.reason);
    return new Class(error.message, { code: status.UNKNOWN, reason: error.reason, sessionId: error.sessionId });
  }
  if (!isServiceError(error)) {
    const message = error instanceof Error ? error.message : String(error);
    return new TenantdError(message, { code: status.UNKNOWN, cause: error });
  }
  const details = decodeDetails(error.metadata);
  if (details.reason !== undefined) {
    const Class = classOf(details.reason);
    return new Class(error.details, {
      ...details,
      reason: details.reason,
      code: error.code,
      // No cause: it says nothing more, in fifty lines.
      disposition: disposition(details.metadata["disposition"]),
    });
  }
  if (error.code === status.UNAVAILABLE || error.code === status.DEADLINE_EXCEEDED) {
    const message = `tenantd at ${address} did not answer: ${error.details}. Is \`tenantd serve\` running there?`;
    return new SidecarUnavailableError(message, address, { code: error.code });
  }
  // What gRPC makes of a connection that breaks in the middle of a call, of a TLS alert for one,
  // and of an answer that it cannot read: the sidecar's own errors have details.
  if (error.code === status.INTERNAL || error.code === status.UNKNOWN) {
    const message = `no answer of tenantd at ${address}: ${error.details}`;
    return new SidecarUnavailableError(message, address, { code: error.code });
  }
  return new TenantdError(error.details, { code: error.code, fields: details.fields });
}

function classOf(reason: string): typeof TenantdError {
  return Object.hasOwn(errorClasses, reason) ? errorClasses[reason as ReasonName] : TenantdError;
}

/** A refusal inside a reply, where no status says more. */
function isRefusal(error: unknown): error is { reason: string; message: string; sessionId: string } {
  return typeof error === "object" && error !== null && !(error instanceof Error) && "reason" in error;
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && typeof error.code === "number" && "details" in error;
}

function disposition(value: string | undefined): DispositionName | undefined {
  return value === "retry_elsewhere" || value === "retry_later" || value === "final" ? value : undefined;
}
