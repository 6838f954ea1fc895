-- Removes from a native gRPC call the metadata that a gRPC server cannot read: it would remember the failure, and refuse
-- other callers' metadata of the same name on the shared connection. Envoy's own headers are removed as well.

local KNOWN = {
  ["grpc-timeout"] = "^%d+[HMSmun]$",
  ["grpc-encoding"] = "^[a-z]+$",
  ["grpc-accept-encoding"] = "^[a-z, ]+$",
  ["grpc-previous-rpc-attempts"] = "^%d+$",
  ["te"] = "^trailers$",
}
local ENCODINGS = { identity = true, gzip = true, deflate = true }
local BASE64 = "^[A-Za-z0-9+/]*=?=?$"
local OURS = "^x%-turnpike%-"
local ENVOYS = "^x%-envoy%-"

local function is_base64(value)
  -- Several values of one name are one, with commas.
  for piece in string.gmatch(value .. ",", "([^,]*),") do
    local digits = string.gsub(piece, "=", "")
    if not string.find(piece, BASE64) or #digits % 4 == 1 then
      return false
    end
  end
  return true
end

local function is_readable(name, value)
  if string.sub(name, 1, 1) == ":" then
    return true
  elseif string.find(name, "[^a-z0-9._-]") or string.find(name, ENVOYS) or string.find(name, OURS) then
    return false
  elseif string.sub(name, -4) == "-bin" then
    return is_base64(value)
  elseif name == "grpc-encoding" then
    return ENCODINGS[value] == true
  elseif KNOWN[name] ~= nil then
    return string.find(value, KNOWN[name]) ~= nil
  end
  return string.sub(name, 1, 5) ~= "grpc-" and string.find(value, "[^ -~\t]") == nil
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local unreadable = {}
  for name, value in pairs(headers) do
    if not is_readable(name, value) then
      unreadable[#unreadable + 1] = name
    end
  end
  for _, name in ipairs(unreadable) do
    headers:remove(name)
  end
end
