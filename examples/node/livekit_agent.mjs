/**
 * A LiveKit worker for many clients: `node livekit_agent.mjs start`.
 *
 * Needs LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET; or see
 * ../python/stand_in/run.py, which runs it with no LiveKit server. There is no media
 * here: the caller is one line of text.
 */
import { fileURLToPath } from "node:url";

import { ServerOptions, cli, defineAgent, voice } from "@livekit/agents";
import * as openai from "@livekit/agents-plugin-openai";
import { entry, requestFunc } from "@tenantd/client/livekit";

export default defineAgent({
  entry: entry(async (ctx, call) => {
    const session = new voice.AgentSession({ llm: new openai.LLM(call.providers.llm.options) });
    call.watch(session);
    await session.start({ agent: new voice.Agent({ instructions: "Greet." }) });
    await session.run({ userInput: "Hi" }).wait();
    if (JSON.parse(ctx.job.metadata || "{}").crash) throw new Error("the agent's own code is broken");
    if (process.env.HANG_UP) ctx.shutdown("the caller hung up"); // Without a room nobody else does.
  }),
});

// The job processes import this file, too.
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const agent = fileURLToPath(import.meta.url);
  // A free port for its health page: many may run on a machine.
  cli.runApp(new ServerOptions({ agent, requestFunc: requestFunc(), loadFunc: async () => 0, port: Number(process.env.PORT ?? 8081) }));
}
