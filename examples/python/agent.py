#!/usr/bin/env python3
"""A small stand-in for a voice agent: takes calls and asks the sidecar first.

Each call comes with the metadata that a LiveKit job and room would carry. The
agent takes a session for it, runs on the providers that the sidecar hands out,
publishes one event, holds the call for a while and gives the slot back. A
refused call is normal; only a sidecar that cannot be reached is an error.

Exit code 0: it ran; 1: the sidecar was not reachable; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import tenantd


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--calls", type=int, default=1, metavar="N", help="how many calls to take (1)")
    add("--tenant-metadata", default="", metavar="JSON", help="job metadata of each call")
    add("--room-metadata", default="", metavar="JSON", help="room metadata of each call")
    add("--agent", default="", metavar="NAME", help="name of the agent")
    add("--hold", type=float, default=0.2, metavar="SECONDS", help="length of a call (0.2)")
    add("--fail-slot", default="", metavar="SLOT", help="calls fail in this provider slot")
    add("--session-prefix", default="", metavar="P", help="call ids are P-1, P-2, ...")
    add("--concurrent", action="store_true", help="all calls at once, else one by one")
    args = parser.parse_args()
    try:
        asyncio.run(run(args))
    except tenantd.InvalidAddress as error:
        print(f"TENANTD_ADDRESS: {error}", file=sys.stderr)
        return 2
    except tenantd.SidecarUnavailable as error:
        print(f"no sidecar at {tenantd.default_address()}: {error}", file=sys.stderr)
        print("start it with `tenantd serve`, or set TENANTD_ADDRESS", file=sys.stderr)
        return 1
    return 0


async def run(args: argparse.Namespace) -> None:
    prefix = args.session_prefix or tenantd.worker_id()
    ids = [f"{prefix}-{i}" for i in range(1, args.calls + 1)]
    async with tenantd.connect() as td:
        if args.concurrent:
            await asyncio.gather(*(call(td, session_id, args) for session_id in ids))
        else:
            for session_id in ids:
                await call(td, session_id, args)


async def call(td: tenantd.AsyncClient, session_id: str, args: argparse.Namespace) -> None:
    try:
        async with td.session(
            session_id,
            job_metadata=args.tenant_metadata,
            room_metadata=args.room_metadata,
            agent_name=args.agent,
        ) as s:
            llm = s.providers.get("llm", tenantd.Provider("-"))
            about = f"llm={llm.provider}/{llm.model} key={redact(llm.api_key)}"
            say(session_id, f"tenant={s.tenant} accepted {about}")
            await s.publish("turn_started", {"turn": 1})
            await asyncio.sleep(args.hold)
            if args.fail_slot:
                await s.fail(slot=args.fail_slot, kind="demo", message="asked to fail")
    except tenantd.SidecarUnavailable:
        raise
    except tenantd.SessionEnded as error:
        # Somebody else ended it, for example an operator.
        say(session_id, f"tenant={error.tenant} ended {error.outcome}")
    except tenantd.TenantdError as error:
        say(session_id, refused(error))
    else:
        ended = "revoked" if s.revoked else "failure" if args.fail_slot else "success"
        say(session_id, f"tenant={s.tenant} ended {ended}")


def refused(error: tenantd.TenantdError) -> str:
    parts = [f"tenant={error.tenant or '-'} refused {error.reason or error.code.name}"]
    if error.limit is not None:
        parts.append(f"limit={error.limit}")
    if error.current is not None:
        parts.append(f"current={error.current}")
    if error.disposition:
        parts.append(error.disposition)
    if error.retry_after is not None:
        parts.append(f"retry_after={error.retry_after:g}s")
    return " ".join(parts)


def redact(key: str) -> str:
    return f"{key[:4]}…({len(key)} chars)"


def say(session_id: str, text: str) -> None:
    print(f"python call {session_id} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
