import { credentials, InterceptingCall, type ChannelCredentials, type Interceptor } from "@grpc/grpc-js";
import { readFileSync, statSync } from "node:fs";
import { isIP, type Socket } from "node:net";

import { defaultAddress, parseAddress } from "./address.js";

/** Where the sidecar is, and what is shown to it. What is absent comes from the environment. */
export interface ConnectionOptions {
  /** `unix:/path`, `http://host:port` or `https://host:port`; {@link defaultAddress} when absent. */
  address?: string;
  /** Bearer token to show with each call; `TENANTD_TOKEN`. */
  token?: string;
  /** File that holds it, read again when it changes; `TENANTD_TOKEN_FILE`. */
  tokenFile?: string;
  /** PEM certificates to trust at an `https://` address; `TENANTD_CA_FILE`, else the usual authorities. */
  caFile?: string;
  /** PEM client certificate, taken up when it changes; `TENANTD_CERT_FILE`. */
  certFile?: string;
  /** Its PEM key; `TENANTD_KEY_FILE`. */
  keyFile?: string;
}

/** Settings that fit together. @internal */
export class Connection {
  readonly address: string;
  readonly #token: string;
  readonly #tokenFile: string;
  /** CA, certificate, key. */
  readonly #files: readonly [string, string, string];
  #known: { stamp: string; token: string } | undefined;

  /**
   * @throws {@link RangeError} when they do not
   */
  constructor(options: ConnectionOptions = {}, env: Readonly<Record<string, string | undefined>> = process.env) {
    this.address = options.address === undefined ? defaultAddress({ env }) : parseAddress(options.address);
    const given = options.token !== undefined || options.tokenFile !== undefined;
    this.#token = (given ? options.token : env["TENANTD_TOKEN"]) || "";
    this.#tokenFile = (given ? options.tokenFile : env["TENANTD_TOKEN_FILE"]) || "";
    if (this.#token && this.#tokenFile) {
      const both = given ? "token and tokenFile are both given; give" : "TENANTD_TOKEN_FILE and TENANTD_TOKEN are both set; set";
      throw new RangeError(`${both} one`);
    }
    this.#files = [
      options.caFile ?? (env["TENANTD_CA_FILE"] || ""),
      options.certFile ?? (env["TENANTD_CERT_FILE"] || ""),
      options.keyFile ?? (env["TENANTD_KEY_FILE"] || ""),
    ];
    if (!this.#files[1] !== !this.#files[2]) {
      throw new RangeError("a client certificate and its key go together: certFile and keyFile");
    }
    if ((this.#token || this.#tokenFile) && !isPrivate(this.address)) {
      throw new RangeError(`a token goes over https, loopback or a unix socket, and not in clear to ${this.address}`);
    }
  }

  /** The same for connections that can share a channel. Secret. */
  get key(): string {
    return JSON.stringify([this.address, this.#token, this.#tokenFile, ...this.#files]);
  }

  get #secure(): boolean {
    return this.address.startsWith("https://");
  }

  /** Another one when the certificates are: a channel keeps those it was made with. */
  stamp(): string {
    return this.#secure ? this.#files.map((file) => file && look(file)).join() : "";
  }

  /** With the certificates of now. */
  credentials(): ChannelCredentials {
    if (!this.#secure) return credentials.createInsecure();
    const [ca, cert, key] = this.#files.map((file) => (file ? readFileSync(file) : null));
    return credentials.createSsl(ca, key, cert);
  }

  /** Shows the token with each call. */
  interceptors(): Interceptor[] {
    if (!this.#token && !this.#tokenFile) return [];
    const bearer: Interceptor = (options, next) =>
      new InterceptingCall(next(options), {
        start: (metadata, listener, start) => {
          metadata.set("authorization", `Bearer ${this.#shown()}`);
          start(metadata, listener);
        },
      });
    return [bearer];
  }

  /** The token of now; the last one while its file is away. */
  #shown(): string {
    if (this.#token) return this.#token;
    const stamp = look(this.#tokenFile);
    if (!this.#known || (stamp && stamp !== this.#known.stamp)) {
      this.#known = { stamp, token: readFileSync(this.#tokenFile, "utf8").trim() };
    }
    return this.#known.token;
  }
}

/**
 * Has the sockets of `made` never keep the process alive. grpc-js references the socket
 * of every open call and has no setting for it; where a later version takes another way
 * the process lives until `close()`.
 *
 * @internal
 */
export function unreferenced(made: ChannelCredentials): ChannelCredentials {
  const make = made._createSecureConnector?.bind(made);
  if (make) {
    made._createSecureConnector = (...given) => {
      const connector = make(...given);
      const connect = connector.connect.bind(connector);
      connector.connect = async (socket: Socket) => {
        unref(socket);
        const connected = await connect(socket);
        // Over TLS another one.
        unref(connected.socket);
        return connected;
      };
      return connector;
    };
  }
  return made;
}

function unref(socket: Socket): void {
  socket.unref();
  socket.ref = () => socket;
}

function look(file: string): string {
  const of = statSync(file, { throwIfNoEntry: false });
  return of ? `${of.ino}-${of.size}-${of.mtimeMs}` : "";
}

/** Whether what is sent there cannot be read on the way. */
function isPrivate(address: string): boolean {
  if (!address.startsWith("http://")) return true;
  const host = address.slice("http://".length, address.lastIndexOf(":")).replace(/^\[|\]$/g, "");
  if (host === "localhost") return true;
  return isIP(host) === 4 ? host.startsWith("127.") : host === "::1";
}
