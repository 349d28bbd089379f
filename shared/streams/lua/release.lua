-- RELEASE: hand what a consumer holds to the pool of reclaimed entries, delivery counts kept. A worker does so
-- when it starts: what its name holds then was in the hands of a process that is gone.
-- An entry whose body is gone is dropped by XCLAIM; the janitor's repair finds it.
-- ARGV: stage, consumer, most. Returns how many entries it let go.
local stage, me, most = word(), word(), number()
local held = call('XPENDING', STREAM[stage], GROUP[stage], '-', '+', most, me)
for _, entry in ipairs(held) do
  call('XCLAIM', STREAM[stage], GROUP[stage], RECLAIMED, 0, entry[1], 'JUSTID')
end
return #held
