/**
 * Everything generated from `tenantd.v1` and `grpc.health.v1`: message types,
 * their schemas, enums and service descriptors.
 *
 * @packageDocumentation
 */
export * from "./gen/grpc/health/v1/health_pb.js";
export * from "./gen/tenantd/v1/admin_service_pb.js";
export * from "./gen/tenantd/v1/event_pb.js";
export * from "./gen/tenantd/v1/provider_pb.js";
export * from "./gen/tenantd/v1/reason_pb.js";
export * from "./gen/tenantd/v1/session_pb.js";
export * from "./gen/tenantd/v1/session_service_pb.js";
export * from "./gen/tenantd/v1/tenant_config_service_pb.js";
export * from "./gen/tenantd/v1/tenant_pb.js";
export * from "./gen/tenantd/v1/watch_service_pb.js";
