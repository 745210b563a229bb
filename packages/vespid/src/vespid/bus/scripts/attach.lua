-- now, signature, last ('1': all executors have been looked at), then pairs: executor that matches, its v when read
-- An executor whose v has changed was upserted meanwhile and has the signature from there, if it matches still.
local sig = ARGV[2]
local state = call('HGET', P .. 'sigs', sig)
if not state then return redis.status_reply('GONE') end
for i = 4, #ARGV, 2 do
  local x = ARGV[i]
  if call('HGET', P .. 'x:' .. x, 'v') == ARGV[i + 1] then
    local h = executor(x)
    if not string.find(' ' .. h[5] .. ' ', ' ' .. sig .. ' ', 1, true) then
      call('HSET', P .. 'x:' .. x, 's', h[5] == '' and sig or h[5] .. ' ' .. sig)
      call('SADD', P .. 'm:' .. sig, x)
      h[5] = sig
      place(x, h)
    end
  end
end
if ARGV[3] == '1' then call('HSET', P .. 'sigs', sig, 'K' .. string.sub(state, 2)) end
return redis.status_reply('OK')
