package pcapfilter

// The parts of classic BPF's instructions, as linux/filter.h names them.
const (
	classLD   = 0x00
	classLDX  = 0x01
	classST   = 0x02
	classSTX  = 0x03
	classALU  = 0x04
	classJMP  = 0x05
	classRET  = 0x06
	classMISC = 0x07
	classMask = 0x07

	sizeW    = 0x00
	sizeH    = 0x08
	sizeB    = 0x10
	sizeMask = 0x18

	modeIMM  = 0x00
	modeABS  = 0x20
	modeIND  = 0x40
	modeMEM  = 0x60
	modeLEN  = 0x80
	modeMSH  = 0xa0
	modeMask = 0xe0

	opADD  = 0x00
	opSUB  = 0x10
	opMUL  = 0x20
	opDIV  = 0x30
	opOR   = 0x40
	opAND  = 0x50
	opLSH  = 0x60
	opRSH  = 0x70
	opNEG  = 0x80
	opMOD  = 0x90
	opXOR  = 0xa0
	opMask = 0xf0

	opJA   = 0x00
	opJEQ  = 0x10
	opJGT  = 0x20
	opJGE  = 0x30
	opJSET = 0x40

	sourceK    = 0x00
	sourceX    = 0x08
	sourceMask = 0x08

	miscTAX = 0x00
	miscTXA = 0x80

	scratchWords = 16
	maxProgram   = 4096 // the kernel's BPF_MAXINSNS
)

// What is loaded from these absolute offsets is not in the packet but kept beside it.
const (
	ancillary        = 0xfffff000 // SKF_AD_OFF
	ancillaryType    = ancillary + 4
	ancillaryIfindex = ancillary + 8
	ancillaryTag     = ancillary + 44 // the tag that the kernel has taken out of the frame
	ancillaryTagged  = ancillary + 48

	packetOutgoing = 4 // PACKET_OUTGOING
)

// Whole instructions that code asks for by name.
const (
	loadImmediate  = classLD | modeIMM
	loadMemory     = classLD | modeMEM
	loadXImmediate = classLDX | modeIMM
	loadXMemory    = classLDX | modeMEM
	loadXHeader    = classLDX | modeMSH | sizeB // X = 4 * (P[k] & 15)
	store          = classST
	storeX         = classSTX
	aToX           = classMISC | miscTAX
	xToA           = classMISC | miscTXA
	jumpEqual      = classJMP | opJEQ
	jumpGreater    = classJMP | opJGT
	jumpAtLeast    = classJMP | opJGE
	jumpSet        = classJMP | opJSET
	jump           = classJMP | opJA
	answer         = classRET
)
