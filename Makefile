# One flag set everywhere, so that the build cache serves build, demo and test alike.
export CGO_ENABLED = 0
BUILD = go build -trimpath -ldflags "-s -w"
# SQLite is C translated to Go, which the race detector has nothing to say about but makes slow, and
# which does what C does with pointers: both are off for it (TRANSLATED), and on for all that is Go,
# the driver of SQLite among it. A process with the race detector waits for a second at its end;
# our goroutines have ended by then. -vet=off: lint vets.
TRANSLATED = -race=false -d=checkptr=0
RACE = GORACE=atexit_sleep_ms=20 CGO_ENABLED=1 go test -race -vet=off \
	-gcflags='modernc.org/sqlite=-d=checkptr=0' -gcflags='modernc.org/sqlite/lib=$(TRANSLATED)' \
	-gcflags='modernc.org/libc/...=$(TRANSLATED)' -gcflags='modernc.org/memory=$(TRANSLATED)'
STATICCHECK = go tool -modfile=tools/staticcheck.mod staticcheck

# The parts of test share the machine, and packages have to be there before the rest.
.NOTPARALLEL:
.PHONY: build deb demo test unit long e2e bench soak lint fmt packages clean

build: ## bin/ingot and the agent that goes into the deploy ramdisk
	$(BUILD) -o bin/ ./cmd/ingot ./cmd/ingot-agent

deb: build ## build/ingot_*.deb: program, systemd unit, configuration
	@scripts/deb.sh

demo: packages build ## a real virtual machine, from an empty disk to a booted image, shown live
	bin/ingot demo

test: packages lint long e2e ## everything, with what it needs

# Many tests wait rather than work: more packages at once than there are processors.
unit: ## the tests of all packages that need no booting machine and not many seconds
	$(RACE) -p 4 -short -shuffle=on -timeout 20m $$(go list ./... | grep -v /test/)

long: build ## all tests of all packages
	$(RACE) -shuffle=on -timeout 30m $$(go list ./... | grep -v /test/)

e2e: build ## whole deploys: QEMU machines, the baremetal client, BIOS and UEFI, faults
	$(RACE) -count=1 -timeout 50m -v ./test/...

soak: build ## 50 drills: servers die at random while machines boot, a seed each; half an hour
	$(RACE) -count=1 -timeout 3h -v -run TestS0_2_MachinesArrive ./test/e2e -args -drills 50 \
		-machines 150 -faults 10

bench: packages build ## every figure beside its yardstick
	go run ./tools/bench

lint: ## format, vet, staticcheck, floors, package comments, requirements
	@test -z "$$(gofmt -l cmd internal test tools)" || \
		{ gofmt -l cmd internal test tools; echo "lint: run make fmt"; exit 1; }
	go vet ./...
	$(STATICCHECK) ./...
	go run ./tools/floors
	@# go.sum is the business of whoever builds: what it lists of tests of others' tests is as the
	@# module proxy of the day tells.
	@! go mod tidy -e -diff 2>/dev/null | grep -A 40 '^diff current/go.mod'

fmt:
	gofmt -w cmd internal test tools

packages:
	@scripts/packages.sh

clean:
	rm -rf bin build
