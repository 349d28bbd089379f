-- BREAKER: a stage stops consuming. The first write is one that is allowed at maxmemory, so the rest is too.
-- ARGV: stage, why. Returns 1 if this call opened it.
local stage, why = word(), word()
if call('HEXISTS', BREAKER, stage) == 1 then return 0 end
call('HDEL', BREAKER, stage)
call('HSET', BREAKER, stage, why)
return 1
