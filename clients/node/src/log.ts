/** Where the client says what nobody catches; a pino logger is one. */
export interface Logger {
  /** @param fields - tags, `tenant` first where one is concerned */
  warn(fields: object, message: string): void;
  /** Like `warn`. */
  error(fields: object, message: string): void;
}

/** Writes a line to stderr. */
export const stderr: Logger = {
  warn: (fields, message) => console.warn(line(fields, message)),
  error: (fields, message) => console.error(line(fields, message)),
};

function line(fields: object, message: string): string {
  const named = Object.entries(fields).map(([name, value]) => ` ${name}=${String(value)}`);
  return `tenantd: ${message}${named.join("")}`;
}
