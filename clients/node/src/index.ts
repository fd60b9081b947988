/**
 * Client of tenantd, the multi-tenant sidecar for AI agents: {@link connect} is the
 * start. All generated types, schemas and services are under `@tenantd/client/proto`.
 *
 * @packageDocumentation
 */
export { defaultAddress, parseAddress, type AddressContext } from "./address.js";
export { connect, Tenantd, type ConnectOptions, type Grant, type NoticeEvents } from "./client.js";
export type { ConnectionOptions } from "./connection.js";
export { Provider, type Config, type Providers } from "./config.js";
export {
  current,
  currentAgentName,
  currentSessionId,
  currentTenantId,
  runBound,
  tags,
  type Binding,
} from "./context.js";
export type { Logger } from "./log.js";
export {
  NoticeStream,
  type ConfigChanged,
  type Notice,
  type Resumed,
  type Revoked,
  type SidecarDraining,
  type Suspended,
} from "./notices.js";
export {
  Session,
  type FailureOptions,
  type JobLike,
  type OutcomeName,
  type SessionEvents,
  type SessionOptions,
} from "./session.js";
export {
  TenantdRpc,
  type AcquireRequest,
  type CallOptions,
  type ClientOptions,
  type EventInit,
  type ReleaseRequest,
  type RenewRequest,
  type ReportFailureRequest,
  type WatchRequest,
} from "./rpc.js";
export * from "./errors.js";
export { KeepAlive, MessageStream } from "./streams.js";
export { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
export type { SessionConfig } from "./gen/tenantd/v1/provider_pb.js";
export { Disposition, Reason } from "./gen/tenantd/v1/reason_pb.js";
export { EndCause, Outcome, SessionState, type Failure } from "./gen/tenantd/v1/session_pb.js";
export {
  EventKind,
  Severity,
  type AgentEvent,
  type Cursor,
  type Event,
} from "./gen/tenantd/v1/event_pb.js";
export type {
  AcquireSessionResponse,
  EventRefusal,
  KeepAliveResponse,
  PublishEventsResponse,
  ReportFailureResponse,
} from "./gen/tenantd/v1/session_service_pb.js";
export type { WatchSessionsResponse } from "./gen/tenantd/v1/watch_service_pb.js";
