/*
 * OpenSSL's library on fixed work: `crypto gcm N`, `crypto sign N KEY`.
 *
 * `openssl speed` works for a fixed time instead, and the command has no AES-GCM
 * otherwise. Linked against the library of the guest's packages, whose headers need not
 * be installed: the few declarations are OpenSSL 3.0's documented interface.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct evp_pkey_st EVP_PKEY;
typedef struct evp_cipher_st EVP_CIPHER;
typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
typedef struct evp_md_st EVP_MD;
typedef struct evp_md_ctx_st EVP_MD_CTX;

EVP_CIPHER_CTX *EVP_CIPHER_CTX_new(void);
const EVP_CIPHER *EVP_aes_128_gcm(void);
int EVP_EncryptInit_ex(EVP_CIPHER_CTX *, const EVP_CIPHER *, void *engine,
		       const unsigned char *key, const unsigned char *iv);
int EVP_EncryptUpdate(EVP_CIPHER_CTX *, unsigned char *out, int *outl,
		      const unsigned char *in, int inl);
EVP_PKEY *PEM_read_PrivateKey(FILE *, EVP_PKEY **, void *callback, void *arg);
EVP_MD_CTX *EVP_MD_CTX_new(void);
void EVP_MD_CTX_free(EVP_MD_CTX *);
const EVP_MD *EVP_sha256(void);
int EVP_DigestSignInit(EVP_MD_CTX *, void *pctx, const EVP_MD *, void *engine,
		       EVP_PKEY *);
int EVP_DigestSign(EVP_MD_CTX *, unsigned char *sig, size_t *siglen,
		   const unsigned char *data, size_t len);

#define BUFFER (64 << 10)

static uint64_t sum_of(const unsigned char *p, size_t len)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = sum * 31 + p[i];
	return sum;
}

static uint64_t gcm(unsigned long n)
{
	static const unsigned char key[16] = "sixteen letters", iv[12] = "twelve more";
	static unsigned char buf[BUFFER];
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int len;

	EVP_EncryptInit_ex(ctx, EVP_aes_128_gcm(), NULL, key, iv);
	while (n--) {
		if (EVP_EncryptUpdate(ctx, buf, &len, buf, BUFFER) != 1)
			exit(1);
	}
	return sum_of(buf, BUFFER);
}

static uint64_t sign(unsigned long n, const char *path)
{
	FILE *f = fopen(path, "r");
	EVP_PKEY *key = f ? PEM_read_PrivateKey(f, NULL, NULL, NULL) : NULL;
	unsigned char sig[1024];
	uint64_t sum = 0;

	if (!key)
		exit(1);
	while (n--) {
		EVP_MD_CTX *ctx = EVP_MD_CTX_new();
		size_t len = sizeof(sig);

		if (EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) != 1 ||
		    EVP_DigestSign(ctx, sig, &len, (unsigned char *)&n, sizeof(n)) != 1)
			exit(1);
		sum += sum_of(sig, len);
		EVP_MD_CTX_free(ctx);
	}
	return sum;
}

int main(int argc, char **argv)
{
	unsigned long n = argc > 2 ? strtoul(argv[2], NULL, 0) : 0;

	if (argc == 3 && !strcmp(argv[1], "gcm"))
		printf("sum=%016llx\n", (unsigned long long)gcm(n));
	else if (argc == 4 && !strcmp(argv[1], "sign"))
		printf("sum=%016llx\n", (unsigned long long)sign(n, argv[3]));
	else
		return 2;
	return 0;
}
