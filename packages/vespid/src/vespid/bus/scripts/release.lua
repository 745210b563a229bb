-- now, request, only this executor ('' any), only while unconfirmed ('1') -> { 'DONE' | 'GONE' | 'KEPT' }, handed
if not meta[1] then return { { 'GONE' }, handed } end
local request, only = ARGV[2], ARGV[3]
local record = find(request)
local word = record and 'KEPT' or 'GONE'
if record and (only == '' or record[X] == only) and not (ARGV[4] == '1' and record[STATE] == 'c') then
  word = 'DONE'
  forget_ask(request, record)
  if record[STATE] == 'w' then
    dequeue(request, record)
  else
    handing_on(function()
      give_back(request, record)
      return { record[X] }
    end, 8)
  end
end
expire(8)
return { { word }, handed }
