/**
 * Which session the running code belongs to, over `AsyncLocalStorage`: promises,
 * timers and emitters follow by themselves. Outside a session each is undefined.
 *
 * @packageDocumentation
 */
import { AsyncLocalStorage } from "node:async_hooks";

/** What is bound to the running code. */
export interface Binding {
  /** The tenant. */
  readonly tenant: string;
  /** The session. */
  readonly sessionId: string;
  /** Named agent; empty when the session has none. */
  readonly agentName: string;
}

/**
 * A place for a binding. An acquire puts it into its caller's context before it is
 * known which tenant is bound, or whether any is.
 *
 * @internal
 */
export class Frame {
  binding: Binding | undefined;
  over = false;
  readonly #outer: Frame | undefined;

  constructor(outer: Frame | undefined) {
    // Ended ones are left out: a loop of acquires must not grow a chain of them.
    while (outer?.over) outer = outer.#outer;
    this.#outer = outer;
  }

  get current(): Binding | undefined {
    for (let frame: Frame | undefined = this; frame; frame = frame.#outer) {
      if (frame.binding && !frame.over) return frame.binding;
    }
    return undefined;
  }
}

const storage = new AsyncLocalStorage<Frame>();

/** All of it; undefined outside a session. */
export function current(): Binding | undefined {
  return storage.getStore()?.current;
}

/** The tenant of the running session; undefined outside one. */
export function currentTenantId(): string | undefined {
  return current()?.tenant;
}

/** The id of the running session; undefined outside one. */
export function currentSessionId(): string | undefined {
  return current()?.sessionId;
}

/** The agent's name of the running session; undefined outside one, or without a name. */
export function currentAgentName(): string | undefined {
  return current()?.agentName || undefined;
}

/** What to put on a log line: `{ tenant, session_id, agent_name }`, without what is not known. */
export function tags(binding: Binding | undefined = current()): Record<string, string> {
  if (!binding) return {};
  const named = binding.agentName ? { agent_name: binding.agentName } : {};
  return { tenant: binding.tenant, session_id: binding.sessionId, ...named };
}

/** Runs `fn` bound, for code that runs a session which was acquired elsewhere. */
export function runBound<T>(binding: Binding, fn: () => T): T {
  const frame = new Frame(storage.getStore());
  frame.binding = binding;
  return storage.run(frame, () => timed(binding, fn));
}

/**
 * A frame for the caller and what it does next. Only the synchronous part of a
 * function reaches its caller's context, so call it there.
 *
 * @internal
 */
export function enter(): Frame {
  const frame = new Frame(storage.getStore());
  storage.enterWith(frame);
  return frame;
}

/** Told how long synchronous code of a session ran; set by the loop monitor.
 * @internal */
export const clock: { spent: ((binding: Binding, ms: number) => void) | undefined } = { spent: undefined };

function timed<T>(binding: Binding, fn: () => T): T {
  if (!clock.spent) return fn();
  const start = performance.now();
  try {
    return fn();
  } finally {
    clock.spent?.(binding, performance.now() - start);
  }
}
