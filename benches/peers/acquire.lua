-- A counting semaphore of leases, as the usual recipe has it: due leases go, then
-- one is added where the cap allows it. Answers the tenant's config.
local now = redis.call('TIME')
local at = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', at)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], at + tonumber(ARGV[3]), ARGV[1])
return redis.call('GET', KEYS[2]) or ''
