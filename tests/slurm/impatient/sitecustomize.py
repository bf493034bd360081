"""On the PYTHONPATH of the Slurm tests, so that their Snakemake looks at its jobs every two seconds.

Its executor waits ten seconds longer after every look without news, which would be most of the tests' time: a job of
ten seconds would take fourteen, one of fifteen thirty-six."""

import asyncio

SECONDS = 2
_sleep = asyncio.sleep


async def sleep(seconds, *arguments):
    return await _sleep(min(seconds, SECONDS), *arguments)


asyncio.sleep = sleep
