// Package dhcp carries DHCPv4 and DHCPv6 packets between one network interface and a function, and
// tells what kind of firmware sent them. It also sends the router advertisement that ends a wait of
// iPXE.
//
// What to answer is the caller's: the package has no leases, no options and no boot files of
// its own. It knows where an answer has to go (RFC 2131 section 4.1, relays, ProxyDHCP), which
// firmware is behind a request ([Identify]), how to choose an address that every server
// chooses alike ([Pool]), and router advertisements ([Advertise], RFC 4861).
//
// Read [Server] first.
package dhcp
