import { isAbsolute, join } from "node:path";

/** What the address rule looks at besides the environment. */
export interface AddressContext {
  /** Variables to read; `process.env` when absent. */
  env?: Readonly<Record<string, string | undefined>>;
  /** Numeric user id; the process's own when absent. */
  uid?: number;
}

/**
 * The address of the sidecar, by the same rule as in the server and in every
 * other client: `TENANTD_ADDRESS`, else a socket under `XDG_RUNTIME_DIR`, else
 * one in a directory of the user's own under `TMPDIR` or `/tmp`.
 *
 * @returns `unix:/absolute/path`, `http://host:port` or `https://host:port`
 * @throws {@link RangeError} when `TENANTD_ADDRESS` is no address
 */
export function defaultAddress(context: AddressContext = {}): string {
  const env = context.env ?? process.env;
  if (env["TENANTD_ADDRESS"]) return parseAddress(env["TENANTD_ADDRESS"]);
  const runtime = env["XDG_RUNTIME_DIR"];
  // A relative directory would mean another socket in every working directory.
  if (runtime && isAbsolute(runtime)) return `unix:${join(runtime, "tenantd", "tenantd.sock")}`;
  const uid = context.uid ?? process.getuid?.();
  if (uid === undefined) throw new RangeError("this system has no user ids: set TENANTD_ADDRESS");
  const temp = env["TMPDIR"];
  const base = temp && isAbsolute(temp) ? temp : "/tmp";
  return `unix:${join(base, `tenantd-${uid}`, "tenantd.sock")}`;
}

/**
 * Brings an address into its one form.
 *
 * @param address - `unix:/path`, `unix:///path`, `/path`, `http://host:port`, `https://host:port` or `host:port`
 * @returns `unix:/absolute/path`, `http://host:port` or `https://host:port`
 * @throws {@link RangeError} when it is none of these
 */
export function parseAddress(address: string): string {
  const path = /^unix:(?:\/\/(?=\/))?(.*)$/s.exec(address)?.[1] ?? (address.startsWith("/") ? address : undefined);
  if (path !== undefined) {
    if (path.length > 1 && isAbsolute(path)) return `unix:${path}`;
    throw invalid(address, "a unix socket needs an absolute path");
  }
  const match = /^(https?:\/\/)?((?:[A-Za-z0-9_.-]+)|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})\/?$/.exec(address);
  if (!match) throw invalid(address, "expected unix:/path, host:port or https://host:port");
  const port = Number(match[3]);
  if (port < 1 || port > 65_535) throw invalid(address, "the port must be 1 to 65535");
  return `${match[1] ?? "http://"}${match[2]}:${port}`;
}

/** The form that grpc-js wants: it has no scheme for TCP. */
export function grpcTarget(address: string): string {
  return parseAddress(address).replace(/^https?:\/\//, "");
}

function invalid(address: string, why: string): RangeError {
  return new RangeError(`${JSON.stringify(address.slice(0, 200))} is no address of tenantd: ${why}`);
}
