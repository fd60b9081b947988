// The same package from CommonJS.
import agents = require("@livekit/agents");
import tenantd = require("@tenantd/client");
import livekit = require("@tenantd/client/livekit");

export const td: tenantd.Tenantd = tenantd.connect();
export const entry = livekit.entry(async (_: agents.JobContext, call) => void call.tenant);
export const options = new agents.ServerOptions({ agent: "x", requestFunc: livekit.requestFunc() });
