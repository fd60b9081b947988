import { inspect } from "node:util";
import type { JsonObject } from "@bufbuild/protobuf";

import type { Provider as ProviderMessage, SessionConfig as ConfigMessage } from "./gen/tenantd/v1/provider_pb.js";

/** One slot's provider. Credentials are hidden from `console.log` and `JSON.stringify`. */
export class Provider {
  /** Provider name, for example `openai`. */
  readonly provider: string;
  /** Model; empty when the provider's own default is meant. */
  readonly model: string;
  /** Endpoint; empty when the provider's own default is meant. */
  readonly baseURL: string;
  /** Free parameters as configured, for example `temperature`. */
  readonly params: Readonly<JsonObject>;
  readonly #credentials: Readonly<Record<string, string>>;

  /** @internal */
  constructor(message: ProviderMessage) {
    this.provider = message.provider;
    this.model = message.model;
    this.baseURL = message.baseUrl;
    // Of its own: the message may be other sessions' too.
    this.params = structuredClone(message.params ?? {});
    this.#credentials = Object.fromEntries(
      Object.entries(message.credentials).map(([name, { value }]) => [name, value]),
    );
    // Parameters are free: a token may hide there.
    Object.defineProperty(this, "params", { enumerable: false });
  }

  /** Secrets by name, in clear. Keep them out of logs. */
  get credentials(): Readonly<Record<string, string>> {
    return this.#credentials;
  }

  /** The credential named `api_key`; empty when there is none. */
  get apiKey(): string {
    return this.#credentials["api_key"] ?? "";
  }

  /**
   * Options for a provider's class: `model`, `baseURL`, the credentials and the
   * parameters, named in camelCase (`api_key` is `apiKey`); what is empty is left
   * out. Holds secrets.
   */
  get options(): { model?: string; baseURL?: string; apiKey?: string; [name: string]: unknown } {
    return {
      ...camelCased(this.params),
      ...(this.model && { model: this.model }),
      ...(this.baseURL && { baseURL: this.baseURL }),
      ...camelCased(this.#credentials),
    };
  }

  /** @internal */
  toJSON(): object {
    return { provider: this.provider, model: this.model, baseURL: this.baseURL, credentials: "[redacted]" };
  }

  /** @internal */
  [inspect.custom](): unknown {
    return this.toJSON();
  }
}

/** Providers by slot: `providers.llm`. A slot that the tenant has not throws, and names those it has. */
export type Providers = Readonly<Record<string, Provider>>;

/** What a session runs on. */
export interface Config {
  /** Opaque; compare for equality only. */
  readonly version: string;
  /** By slot: `stt`, `llm`, `tts`, ... A slot that is switched off is absent. */
  readonly providers: Providers;
  /** Free-form labels of the tenant. */
  readonly labels: Readonly<Record<string, string>>;
  /** False when the tenant has no entry and runs on the defaults. */
  readonly tenantKnown: boolean;
  /** True when a source of the tenant's entry fails, and this is what it said last. */
  readonly stale: boolean;
}

/** @internal */
export const NOTHING: Config = { version: "", providers: slots({}), labels: {}, tenantKnown: false, stale: false };

/** @internal */
export function toConfig(message: ConfigMessage): Config {
  const providers = Object.entries(message.providers).map(([slot, p]) => [slot, new Provider(p)] as const);
  const { version, tenantKnown, stale } = message;
  const labels = { ...message.labels };
  return { version, providers: slots(Object.fromEntries(providers)), labels, tenantKnown, stale };
}

function slots(bySlot: Record<string, Provider>): Providers {
  return new Proxy(Object.assign(Object.create(null) as Record<string, Provider>, bySlot), {
    get(target, slot) {
      // Symbols, `then` and `toJSON` are asked for by inspect, await and JSON.
      if (typeof slot === "symbol" || slot in target || slot === "then" || slot === "toJSON") {
        return Reflect.get(target, slot) as unknown;
      }
      const have = Object.keys(target).sort().join(", ") || "none";
      throw new RangeError(`the tenant has no provider "${slot}"; it has: ${have}`);
    },
  });
}

function camelCased(named: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(named).map(([name, value]) => [
      name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase()),
      value,
    ]),
  );
}
